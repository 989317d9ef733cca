"""Confirm runs: who wins is decided on validation, and how good the winners are on seeds nobody has seen."""

import pytest

from tests.tuner.events import History
from tests.tuner.spec_texts import more, spec_of
from tuner.search.confirm_trials import FixedSource, confirm_requests, selection_requests
from tuner.search.trial_request import TrialRequest
from tuner.search.winners import confirm_values, ranked, winners
from tuner.spec.search_spec import SearchSpec
from tuner.spec.trial_config import round_seeds, selection_seeds
from tuner.storage.events import RoundBegun, Stage, State

SPEC = spec_of()
TOP_2 = spec_of(more("confirm: {top_k: 2, selection_seeds: 2}\n"))
MOST_SEEDS, MOST_ROUNDS = 1000, 20


def requests_of_round(
    spec: SearchSpec, history: History, round_number: int, seeds: tuple[int, ...]
) -> list[TrialRequest]:
    chosen = winners(history.record(), spec)
    confirm_round = RoundBegun(round_number, seeds, {arm: trial.number for arm, trial in chosen.items()})
    return confirm_requests(history.record(), spec, chosen, confirm_round, lambda arm, number: f"{arm}-{number}")


@pytest.mark.parametrize("state", [state for state in State if state not in (State.COMPLETE, State.RUNNING)])
def test_only_complete_trials_can_win(state: State) -> None:
    history = History(SPEC)
    history.trial("noam", 0, [0.1, 0.2])
    history.trial("noam", 1, [0.8, 0.9], state)
    history.trial("noam", 2, [0.8, 0.9], state=None)
    assert winners(history.record(), SPEC)["noam"].number == 0


def test_trials_are_ranked_by_the_last_epoch_not_the_best() -> None:
    history = History(SPEC)
    history.trial("noam", 0, [0.9, 0.3])
    history.trial("noam", 1, [0.1, 0.5])
    history.trial("noam", 2, [0.1, 0.4])
    assert [trial.number for trial in ranked(history.record(), SPEC, "noam")] == [1, 2, 0]


def test_of_equals_the_one_tried_first_wins() -> None:
    history = History(SPEC)
    for number in (2, 0, 1):
        history.trial("noam", number, [0.5])
    assert [trial.number for trial in ranked(history.record(), SPEC, "noam")] == [0, 1, 2]
    assert winners(history.record(), SPEC)["noam"].number == 0


def test_by_loss_the_lowest_wins() -> None:
    spec = spec_of(more("metric: {name: val/loss}\n"))
    history = History(spec)
    history.trial("noam", 0, [0.9], losses=[2.0])
    history.trial("noam", 1, [0.1], losses=[1.0])
    assert winners(history.record(), spec)["noam"].number == 1


def test_an_arm_without_a_complete_trial_has_no_winner() -> None:
    history = History(SPEC)
    history.trial("adam_l2", 0, [0.5])
    history.trial("noam", 0, [0.5], State.PRUNED)
    assert list(winners(history.record(), SPEC)) == ["adam_l2"]


@pytest.mark.parametrize("spec", [SPEC, TOP_2])
def test_one_candidate_needs_no_selection_runs(spec: SearchSpec) -> None:
    history = History(spec)
    history.trial("noam", 0, [0.5])
    assert selection_requests(history.record(), spec, ("noam",)) == []


def test_the_best_of_each_arm_are_trained_on_the_selection_seeds() -> None:
    history = History(TOP_2)
    for number, val in enumerate((0.3, 0.5, 0.4)):
        history.trial("noam", number, [val])
    for number, val in enumerate((0.5, 0.6)):
        history.trial("adam_l2", number, [val])
    requests = selection_requests(history.record(), TOP_2, history.arms)
    seeds = selection_seeds(TOP_2)
    assert [(request.arm, request.number, request.trial.seed) for request in requests] == [
        (arm, number, seed)
        for seed in seeds
        for arm, number in (("adam_l2", 1), ("adam_l2", 0), ("noam", 1), ("noam", 2))
    ]
    assert len({request.key for request in requests}) == len(requests)


def selected(*runs: tuple[int, int, float, State]) -> int:
    history = History(TOP_2)
    history.trial("noam", 0, [0.6])
    history.trial("noam", 1, [0.5])
    for number, index, val, state in runs:
        history.trial("noam", number, [val], state, Stage.SELECT, selection_seeds(TOP_2)[index])
    return winners(history.record(), TOP_2)["noam"].number


def test_the_highest_mean_over_the_selection_seeds_wins() -> None:
    done = State.COMPLETE
    assert selected((0, 0, 0.6, done), (0, 1, 0.2, done), (1, 0, 0.5, done), (1, 1, 0.5, done)) == 1


def test_equal_means_leave_the_searchs_order() -> None:
    done = State.COMPLETE
    assert selected((0, 0, 0.25, done), (0, 1, 0.75, done), (1, 0, 0.5, done), (1, 1, 0.5, done)) == 0


@pytest.mark.parametrize("state", [State.FAILED, State.DIVERGED])
def test_a_setting_that_fails_on_a_selection_seed_is_out(state: State) -> None:
    done = State.COMPLETE
    assert selected((0, 0, 0.9, done), (0, 1, 0.9, state), (1, 0, 0.1, done), (1, 1, 0.1, done)) == 1


def test_when_all_settings_fail_on_a_selection_seed_the_search_decides() -> None:
    failed = State.FAILED
    assert selected((0, 0, 0.1, failed), (0, 1, 0.1, failed), (1, 0, 0.9, failed), (1, 1, 0.9, failed)) == 0


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
def test_no_seed_is_ever_used_for_two_things(seed: int) -> None:
    spec = spec_of(more(f"seed: {seed}\nconfirm: {{selection_seeds: 100}}\n"))
    rounds = [round_seeds(spec, number, MOST_SEEDS) for number in range(1, MOST_ROUNDS + 1)]
    every = [spec.seed, *selection_seeds(spec), *(seed for seeds in rounds for seed in seeds)]
    assert len(set(every)) == len(every) == 1 + 100 + MOST_SEEDS * MOST_ROUNDS


def test_all_arms_get_the_same_fresh_seeds_and_the_winners_own_settings() -> None:
    history = History(SPEC)
    history.trial("adam_l2", 0, [0.5])
    history.trial("noam", 0, [0.5])
    history.trial("noam", 1, [0.6])
    requests = requests_of_round(SPEC, history, 1, seeds := round_seeds(SPEC, 1, 4))
    for arm, number in (("adam_l2", 0), ("noam", 1)):
        own = [request for request in requests if request.arm == arm]
        assert tuple(request.trial.seed for request in own) == seeds
        assert {request.number for request in own} == {number}
        assert {request.image_trial.hyper.lr for request in own} == {
            history.record().trials[f"search/{arm}/{number}"].hyper["lr"]
        }
        assert {request.trial.epochs for request in own} == {SPEC.budget.epochs}
    assert {(request.stage, request.round, request.judged) for request in requests} == {(Stage.CONFIRM, 1, None)}


def test_only_the_first_seeds_weights_are_kept() -> None:
    history = History(SPEC)
    history.trial("adam_l2", 0, [0.5])
    history.trial("noam", 0, [0.5])
    requests = requests_of_round(SPEC, history, 2, seeds := round_seeds(SPEC, 2, 3))
    kept = {
        (request.arm, request.trial.seed, str(request.weights_path)) for request in requests if request.weights_path
    }
    assert kept == {(arm, seeds[0], f"{arm}-2") for arm in ("adam_l2", "noam")}


def test_a_confirm_run_that_failed_has_no_test_accuracy() -> None:
    history = History(SPEC)
    both = {"adam_l2": 0, "noam": 0}
    history.confirm(1, both, {"adam_l2": {5: 0.4, 6: 0.5}, "noam": {5: 0.7}})
    history.confirm(2, both, {"adam_l2": {8: 0.1}, "noam": {8: 0.2}})
    record = history.record()
    assert confirm_values(record, "noam", 1) == {5: 0.7}
    assert confirm_values(record, "adam_l2", 1) == {5: 0.4, 6: 0.5}
    assert confirm_values(record, "noam", 2) == {8: 0.2}


def searched(*extra: tuple[str, int]) -> History:
    history = History(SPEC)
    for arm, number in (("adam_l2", 0), ("noam", 0), *extra):
        history.trial(arm, number, [0.5])
    return history


def keys_left(history: History) -> list[str]:
    requests = requests_of_round(SPEC, history, 1, round_seeds(SPEC, 1, 2))
    source = FixedSource(requests, history.record())
    return [request.key for request in iter(source.next, None)]


def test_a_list_gives_its_trials_once_in_their_order() -> None:
    assert keys_left(searched()) == [
        f"confirm/{arm}/1/{seed}" for seed in round_seeds(SPEC, 1, 2) for arm in ("adam_l2", "noam")
    ]


@pytest.mark.parametrize("state", [state for state in State if state != State.RUNNING])
def test_a_list_gives_no_trial_again_that_has_ended(state: State) -> None:
    history = searched()
    first, second = round_seeds(SPEC, 1, 2)
    history.trial("adam_l2", 0, [0.5], state, Stage.CONFIRM, first, 1)
    history.trial("noam", 0, [0.5], None, Stage.CONFIRM, first, 1)
    assert keys_left(history) == [f"confirm/noam/1/{first}", f"confirm/adam_l2/1/{second}", f"confirm/noam/1/{second}"]


def test_an_interrupted_round_goes_on_with_the_same_winners_and_settings() -> None:
    history = searched(("noam", 1))
    before = requests_of_round(SPEC, history, 1, seeds := round_seeds(SPEC, 1, 3))
    history.trial("noam", 0, [0.9], State.COMPLETE, Stage.CONFIRM, seeds[0], 1, 0.9)
    assert requests_of_round(SPEC, history, 1, seeds) == before


@pytest.mark.parametrize("contiguous", [True, False])
def test_every_run_after_a_search_has_the_layout_of_its_job(contiguous: bool) -> None:
    spec = spec_of(more("confirm: {top_k: 2, selection_seeds: 2}\n"), ("elu_net", "mine:net"))
    history = History(spec)
    history.alter_job(contiguous=contiguous)
    for arm in history.arms:
        for number in range(2):
            history.trial(arm, number, [0.5])
    requests = selection_requests(history.record(), spec, history.arms) + requests_of_round(spec, history, 1, (1, 2))
    assert {request.image_trial.channels_last for request in requests} == {not contiguous}
