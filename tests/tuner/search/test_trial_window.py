"""What a sampler is shown of a long study."""

import random
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tuner.search.test_study import DEFAULT, study_of
from trainables.space import Scalar
from tuner.search.study import ArmStudy, RecordedTrial
from tuner.search.trial_window import BEST, NEWEST, Rank, TrialWindow
from tuner.storage.events import State

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class Ended(NamedTuple):
    """A trial; one that still runs has not ended, and one without a loss gave no result."""

    ended: bool
    loss: int | None


def history() -> TrialWindow[Ended]:
    return TrialWindow(2, 3, lambda trial: trial.ended, rank)


def rank(trial: Ended) -> Rank | None:
    return None if trial.loss is None else (trial.loss,)


trials = st.lists(st.builds(Ended, st.booleans(), st.none() | st.integers(0, 5)), max_size=30)


@given(trials, st.randoms(use_true_random=False))
def test_it_shows_the_same_whenever_it_looked(found: list[Ended], rng: random.Random) -> None:
    looked_often = history()
    numbers = [number for number, trial in enumerate(found) if trial.ended]
    rng.shuffle(numbers)
    for known in range(len(numbers)):
        seen = [trial if number in numbers[:known] else Ended(False, None) for number, trial in enumerate(found)]
        looked_often.shown(seen[: rng.randint(0, len(seen))] if known == 0 else seen)
    assert looked_often.shown(found) == history().shown(found)


@given(trials)
def test_it_shows_the_best_the_newest_of_the_others_and_all_that_run(found: list[Ended]) -> None:
    useful = [number for number, trial in enumerate(found) if trial.ended and trial.loss is not None]
    best = sorted(useful, key=lambda number: (found[number].loss, number))[:2]
    newest = [number for number in useful if number not in best][-3:]
    running = [number for number, trial in enumerate(found) if not trial.ended]
    assert history().shown(found) == [found[number] for number in sorted({*best, *newest, *running})]


def past(count: int) -> list[RecordedTrial]:
    rng = random.Random(1)

    def one(number: int) -> RecordedTrial:
        knobs: dict[str, Scalar] = {**DEFAULT, "lr": rng.uniform(1e-4, 1e-2), "beta1": rng.uniform(0.5, 0.95)}
        state = State.FAILED if number % 7 == 0 else State.PRUNED if number % 3 else State.COMPLETE
        return RecordedTrial(knobs, state, [(1, rng.random()), (2, rng.random())], ended=number)

    return [one(number) for number in range(count)]


def restored(count: int, trials: list[RecordedTrial] | None = None) -> ArmStudy:
    return study_of("tpe", trials=count, past=past(count) if trials is None else trials)


def test_a_short_study_is_shown_whole() -> None:
    study = restored(50)
    assert study._shown().get_trials() == [trial for trial in study._study.get_trials() if trial.value is not None]


def test_an_ask_of_a_long_study_looks_at_no_more_than_one_of_a_shorter() -> None:
    assert {len(restored(count)._shown().get_trials()) for count in (400, 800)} == {BEST + NEWEST}


def test_the_best_of_a_long_study_is_not_forgotten() -> None:
    trials = past(600)
    trials[1] = replace(trials[1], state=State.COMPLETE, reports=[(1, 2.0)])
    assert 1 in [trial.number for trial in restored(600, trials)._shown().get_trials()]


def test_a_long_study_made_again_from_the_record_asks_as_it_would_have() -> None:
    trials = past(400)
    lived = restored(300, trials[:300])
    for known in trials[300:]:
        asked = lived.ask()
        trials[asked.number] = RecordedTrial(asked.knobs, known.state, known.reports, ended=known.ended)
        lived.tell(asked.number, known.state, known.reports)
    assert lived.ask() == restored(400, trials).ask()
