"""MLflow's runs of a job about methods: their names, tags and parent."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.tuner.method_jobs import PLACEBO, Searches, method_spec
from tuner.jobs.job_folder import JobFolder
from tuner.spec.trial_config import SearchSeeds
from tuner.storage.events import Stage, TrialBegun
from tuner.storage.journal import encode
from tuner.tracking.run_layout import job_run, trial_run
from tuner.tracking.writer import Writer

SPEC = method_spec(PLACEBO)


@pytest.fixture
def history() -> Searches:
    """Trial 1 of search 3 of noam is confirmed, first for its search and then as the best setting of its arm."""
    made = Searches(SPEC)
    made.trials("noam", 3)
    made.confirmed("noam", 3, [0.7])
    made.trained("select/noam/3.1/10000", "noam", 3, 1, seed=10_000)
    made.add("confirm", round=1, seeds=[70, 71, 72], winners={"noam": 1}, searches={"noam": 3})
    made.trained("confirm/round/noam/1/70", "noam", 3, 1, seed=70, test=0.7, round_number=1)
    return made


def test_runs_are_named_by_search_and_trial_and_have_the_search_as_a_tag(history: Searches) -> None:
    record = history.record()
    runs = [trial_run(trial.begun, "job-1", "parent", record.arms) for trial in record.trials.values()]
    (confirm,) = SearchSeeds.of(SPEC, 3).confirm
    assert [run.name for run in runs] == [
        "noam-3.0",
        "noam-3.1",
        f"noam-3.1-confirm-{confirm}",
        "noam-3.1-select-10000",
        "noam-3.1-confirm-70",
    ]
    assert {run.tags["tuner.search"] for run in runs} == {"3"}
    assert [run.tags["tuner.number"] for run in runs] == ["0", "1", "1", "1", "1"]
    assert [run.tags["tuner.stage"] for run in runs] == ["search", "search", "confirm", "select", "confirm"]
    assert len({run.tags["tuner.trial"] for run in runs}) == len(runs)


def test_a_job_with_one_search_per_arm_has_the_names_and_tags_that_it_had() -> None:
    begun = TrialBegun("search/noam/7", Stage.SEARCH, "noam", 7, 0, 0, {"lr": 0.1}, {"lr": 0.1})
    run = trial_run(begun, "job-1", "parent", ("adam_l2", "noam"))
    assert run.name == "noam-7"
    assert "tuner.search" not in run.tags


def test_the_parent_run_says_what_is_claimed_and_when_the_verdict_looks(history: Searches) -> None:
    params = job_run(history.record().job).params
    assert (params["claim"], params["searches.at"], params["placebo"]) == ("method", "[3, 4, 5]", True)


def test_every_option_of_a_job_is_a_parameter_of_its_own(history: Searches) -> None:
    spec = {
        "model": {"name": "mine:build", "options": {"depth": 3, "a/b": 1, "a?b": 2}},
        "arms": [
            {"name": "one", "parameters": {"lr": {"min": 0.1, "max": 1, "step": None}}, "fixed": {}},
            {"name": "two", "parameters": {}, "fixed": {"beta1": 0.5}},
        ],
        "searches": {"at": list(range(3000))},
        "storage": None,
    }
    params = job_run(replace(history.record().job, spec=spec, versions={})).params
    assert {name: value for name, value in params.items() if not name.startswith("searches")} == {
        "model.name": "mine:build",
        "model.options.depth": 3,
        "model.options.a_b": 1,
        "model.options.a_b_2": 2,
        "arms.one.name": "one",
        "arms.one.parameters.lr.min": 0.1,
        "arms.one.parameters.lr.max": 1,
        "arms.two.name": "two",
        "arms.two.fixed.beta1": 0.5,
        "storage": None,
    }
    # A list that is longer than a parameter may be, as JSON.
    assert [params[f"searches.at.{number}"] for number in (0, 2999)] == [0, 2999]


# mlflow and SQLAlchemy disagree about deprecations; that is theirs.
@pytest.mark.filterwarnings("ignore")
def test_a_store_holds_every_run_of_a_search_once(history: Searches, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    folder = JobFolder(tmp_path / "job-1")
    folder.path.mkdir()
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for count in (8, len(history.entries)):
        folder.journal.write_bytes(b"".join(map(encode, history.entries[:count])))
        Writer(folder, store, "job", None).send()
    client = MlflowClient(tracking_uri=store)
    experiments = [found.experiment_id for found in client.search_experiments()]
    found = client.search_runs(experiments, "tags.`tuner.search` = '3'")
    assert sorted(run.data.tags["tuner.trial"] for run in found) == sorted(history.record().trials)
    assert {run.info.run_name for run in found} >= {"noam-3.0", "noam-3.1"}
