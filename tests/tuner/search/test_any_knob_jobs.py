"""Searches with conditional knobs, a searched batch size, first settings and a warm start, on made-up trainings."""

import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest

from tests.tuner.events import History
from tests.tuner.search.test_study_database import empty_database
from tests.tuner.spec_texts import NOAM, spec_of
from trainables.config import TrialConfig
from trainables.data.request import ImageCounts
from trainables.simulated import SimulatedTraining
from trainables.space import Plan, Scalar
from tuner.errors import NotFound, SpecError
from tuner.execution.dispatcher import Dispatcher
from tuner.execution.simulator import Clock, Simulation, simulate
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.reading import read_and_recover
from tuner.jobs.record import Record, Trial, load_record
from tuner.jobs.stop import StopRequest
from tuner.jobs.warm_start import check_earlier_jobs, earlier_trials
from tuner.jobs.workspace import Workspace
from tuner.search.search_trials import SearchSource, early_stopper
from tuner.search.study_database import StudyWriter
from tuner.spec.arms import arms
from tuner.spec.search_spec import SearchSpec, to_dict
from tuner.storage.events import EarlierTrials, JobStateChanged, Stage, State
from tuner.storage.journal import Journal

IMAGES = 1000
PLAN = Plan(8, 10, IMAGES)
ARM = """\
  - variant: adam_l2
    name: any
    parameters:
      schedule: {values: [constant, cosine, noam]}
      warmup: {min: 1, max: 20, scale: log, when: {schedule: noam}}
      beta1: {min: 0.5, max: 0.9, step: 0.1}
      batch_size: {values: [50, 100, 200]}
"""
FIRST = "    first: [{schedule: noam, batch_size: 200}, {schedule: cosine}]\n"
TRIALS = ("trials: 4", "trials: 14")


def spec_with(more_of_arm: str = "", *edits: tuple[str, str]) -> SearchSpec:
    return spec_of((NOAM, ARM + more_of_arm), TRIALS, *edits)


@dataclass
class Job:
    """A search in a workspace: the journal is a real one, and the time and the trainings are made up."""

    folder: JobFolder
    spec: SearchSpec
    fingerprint: str = "f" * 64

    @classmethod
    def new(cls, workspace: Workspace, spec: SearchSpec, fingerprint: str = "f" * 64) -> "Job":
        start = {"spec": to_dict(spec), "folder": ".", "simulate": True}
        return cls(workspace.new_job("job", "", start), spec, fingerprint)

    def run(self, trainings: type[SimulatedTraining] = SimulatedTraining) -> Record:
        """Run what the journal has not yet, one trial at a time, as one driver."""
        reading, clock = read_and_recover(self.folder.journal), Clock()
        record, spec, found = reading.record, self.spec, arms(self.spec, PLAN)
        workspace, name = Workspace(self.folder.path.parents[1]), self.folder.id
        earlier = list(earlier_trials(workspace, name, record, spec, found, PLAN, self.fingerprint, simulated=False))
        journal = Journal(self.folder.journal, record.add, end=reading.end, durable=False, clock=clock)
        with closing(journal):
            if not record.begun:
                history = History(spec, name)
                history.alter_job(data_images=ImageCounts(IMAGES, 100, 100), data_fingerprint=self.fingerprint)
                journal.append(history.entries[0].event)
            for event in earlier:
                journal.append(event)
            journal.append(JobStateChanged("running"))
            source = SearchSource(spec, found, PLAN, record, concurrent=1, clock=clock)
            stopper = early_stopper(spec, PLAN, record)
            dispatcher = Dispatcher(source, journal, record, spec.resources, early_stopper=stopper, clock=clock)
            simulate(dispatcher, Simulation(PLAN, 1, clock, training=trainings), StopRequest())
        return self.record

    @property
    def record(self) -> Record:
        return load_record(self.folder.journal)

    def cut(self, lines: int) -> None:
        """Keep only the first lines of the journal, as after a crash."""
        whole = self.folder.journal.read_bytes().splitlines(keepends=True)
        self.folder.journal.write_bytes(b"".join(whole[:lines]))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def job(home: Workspace) -> Job:
    """A job that ran to its end."""
    found = Job.new(home, spec_with(FIRST))
    found.run()
    return found


def searched(record: Record) -> list[Trial]:
    return record.of(Stage.SEARCH, "any")


def tried(record: Record) -> list[tuple[str, Mapping[str, Scalar], State, int]]:
    return [(trial.key, trial.knobs, trial.state, len(trial.epochs)) for trial in record.of(Stage.SEARCH)]


def test_trials_have_just_the_knobs_that_apply_and_the_first_ones_are_those_of_the_spec(job: Job) -> None:
    found = searched(job.record)
    assert [(trial.knobs["schedule"], trial.knobs["batch_size"]) for trial in found[:2]] == [
        ("noam", 200),
        ("cosine", 50),
    ]
    assert {str(trial.knobs["schedule"]) for trial in found} == {"constant", "cosine", "noam"}
    for trial in found:
        assert ("warmup" in trial.knobs) == (trial.knobs["schedule"] == "noam")
        assert trial.hyper["warmup"] == trial.knobs.get("warmup", 0)
        assert trial.hyper["batch_size"] == trial.knobs["batch_size"]
        assert trial.knobs["beta1"] in (0.5, 0.6, 0.7, 0.8, 0.9)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.95])
def test_a_job_that_was_cut_short_has_the_same_trials_after_a_resume(job: Job, home: Workspace, share: float) -> None:
    again = Job(JobFolder(home.path / "jobs" / f"cut-{share}"), job.spec)
    shutil.copytree(job.folder.path, again.folder.path)
    again.cut(int(share * len(job.folder.journal.read_bytes().splitlines())))
    assert tried(again.run()) == tried(job.record)


def test_every_trial_has_the_updates_and_the_judged_epochs_of_its_own_batch(home: Workspace) -> None:
    plans: list[tuple[TrialConfig, Plan]] = []

    class Noting(SimulatedTraining):
        def __init__(self, config: TrialConfig, plan: Plan) -> None:
            super().__init__(config, plan)
            plans.append((config, plan))

    fixed = "    fixed: {schedule: noam}\n    first: [{batch_size: 50, warmup: 20}, {batch_size: 200, warmup: 20}]\n"
    spec = spec_with(fixed, ("      schedule: {values: [constant, cosine, noam]}\n", ""))
    Job.new(home, spec).run(Noting)
    assert {config.batch_size: plan.steps_per_epoch for config, plan in plans} == {50: 20, 100: 10, 200: 5}
    source = SearchSource(spec, arms(spec, PLAN), PLAN, Record(), concurrent=1)
    requests = [source.next() for _ in range(4)]
    # 20 updates of warm-up are one epoch of batches of 50, and four epochs of batches of 200.
    judged = [request.judged.at for request in requests if request and request.arm == "any" and request.judged]
    assert judged == [(2, 4), (4,)]


def test_the_studies_database_has_only_the_knobs_that_apply(job: Job, tmp_path: Path) -> None:
    database = tmp_path / "studies.db"
    database.write_bytes(empty_database())
    for _ in range(2):  # A second writer finds what the first one wrote, and leaves it.
        writer = StudyWriter(job.folder, f"sqlite:///{database}", durable=False)
        writer.send()
        assert writer._storage is not None
        study = optuna.load_study(study_name=f"{job.folder.id}/any", storage=writer._storage)
        stored = {trial.number: trial.params for trial in study.trials}
        writer._storage.engine.dispose()
        assert stored == {trial.number: dict(trial.knobs) for trial in searched(job.record)}
        assert len(study.trials) == 14


WARM = "    warm_start: "


def warm(job: Job, *edits: tuple[str, str], text: str = FIRST) -> SearchSpec:
    return spec_with(f"{text}{WARM}{job.folder.id}\n", *edits)


def test_a_warm_start_shows_the_sampler_the_earlier_trials_and_survives_the_earlier_job(
    job: Job, home: Workspace, tmp_path: Path
) -> None:
    there = Workspace(tmp_path)
    shutil.copytree(job.folder.path, tmp_path / "jobs" / job.folder.id)
    cold, later = Job.new(there, spec_with(FIRST, ("name: job", "name: cold"))), Job.new(there, warm(job))
    # The same seeds: without the earlier trials, the two jobs would be the same.
    record, without = later.run(), cold.run()
    assert tried(without) == tried(job.record)
    known = record.earlier["any"]
    assert (known.job, len(known.trials)) == (job.folder.id, 14)
    by_end = sorted(searched(job.record), key=lambda trial: trial.ended_n or 0)
    assert [trial.knobs for trial in known.trials] == [trial.knobs for trial in by_end]
    assert [trial.value for trial in known.trials] == [trial.epochs[-1].metric("val_acc") for trial in by_end]
    # They are no trials of this job.
    assert len(searched(record)) == 14
    assert [trial.number for trial in searched(record)] == list(range(14))
    assert [trial.knobs for trial in searched(record)[:2]] == [trial.knobs for trial in searched(without)[:2]]
    assert searched(record)[2].knobs != searched(without)[2].knobs
    # The other arm, which has no warm start, is the same in both.
    assert [t.knobs for t in record.of(Stage.SEARCH, "adam_l2")] == [
        t.knobs for t in without.of(Stage.SEARCH, "adam_l2")
    ]
    shutil.rmtree(tmp_path / "jobs" / job.folder.id)
    later.cut(40)
    assert tried(later.run()) == tried(record)


def refusal(
    home: Workspace, spec: SearchSpec, plan: Plan = PLAN, fingerprint: str = "f" * 64, simulated: bool = False
) -> str:
    with pytest.raises(SpecError) as caught:
        list(earlier_trials(home, "job-0", Record(), spec, arms(spec, plan), plan, fingerprint, simulated=simulated))
    message = str(caught.value)
    assert "\n" not in message
    assert ": arms[1].warm_start: " in message
    return message


def test_a_warm_start_from_trials_that_cannot_be_compared_is_refused(job: Job, home: Workspace) -> None:
    name = job.folder.id
    assert "no job 'nobody'" in refusal(home, spec_with(WARM + "nobody\n"))
    assert "must lie in the workspace in which this job runs" in refusal(home, spec_with(WARM + "nobody\n"))
    assert "which soon is another job" in refusal(home, spec_with(WARM + "latest\n"))
    assert f"job {name} is not a simulation" in refusal(home, warm(job), simulated=True)
    assert f"job {name} has other data" in refusal(home, warm(job), fingerprint="0" * 64)
    assert f"job {name} has trials of 8 epochs of 10 updates, and this one of 9 epochs of 10 updates" in refusal(
        home, warm(job, ("epochs: 8", "epochs: 9")), Plan(9, 10, IMAGES)
    )
    loss = warm(job, ("baseline:", "metric: {name: val/loss}\nbaseline:"))
    assert "has the metric validation accuracy, and this one has validation loss" in refusal(home, loss)
    assert f"job {name} has seed: 0, and this one seed: 3; it must be the same" in refusal(
        home, warm(job, ("baseline:", "seed: 3\nbaseline:"))
    )
    assert f"job {name} has resources.precision: fp32, and this one has bf16" in refusal(
        home, warm(job, ("baseline:", "resources: {precision: bf16, gpus: 1}\nbaseline:"))
    )
    assert "has another model" in refusal(home, warm(job, ("name: elu_net", "name: elu_net\n  setup: article")))
    assert f"job {name} has no arm other; its arms are adam_l2, any" in refusal(
        home, warm(job, ("    name: any", "    name: other"))
    )
    assert "has adam_l2 in the arm any, and this one has adamw" in refusal(
        home, warm(job, ("variant: adam_l2", "variant: adamw"))
    )
    assert "has other fixed values in the arm any" in refusal(home, warm(job, text="    fixed: {eps: 1e-7}\n"))
    assert "has 0.5 to 0.9, linear, step 0.1 for beta1 in the arm any, and this one has 0.5 to 0.9, linear" in refusal(
        home, warm(job, (", step: 0.1", ""))
    )
    assert "1 to 20, log (if schedule is noam) for warmup in the arm any, and this one has 1 to 20, log (if" in refusal(
        home, warm(job, ("when: {schedule: noam}", "when: {schedule: [noam, cosine]}"), text="")
    )


def test_a_warm_start_from_searches_with_other_splits_is_refused(
    job: Job, home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = History(spec_of(("budget:", "searches: 8\nbudget:"))).record()
    monkeypatch.setattr(JobFolder, "record", lambda folder: record)
    assert "has claim: method, where each search has its own split and seeds" in refusal(home, warm(job))


def test_a_warm_start_from_an_unknown_job_is_refused_before_anything_starts(job: Job, home: Workspace) -> None:
    check_earlier_jobs(home, warm(job))
    check_earlier_jobs(home, spec_with(FIRST))
    with pytest.raises(NotFound, match=r"arms\[1\].warm_start: no job 'nobody' in .*; the earlier job must lie in"):
        check_earlier_jobs(home, spec_with(WARM + "nobody\n"))


def test_a_warm_start_needs_ended_trials(job: Job, home: Workspace) -> None:
    begun = Job(JobFolder(home.path / "jobs" / "begun-1"), job.spec)
    shutil.copytree(job.folder.path, begun.folder.path)
    begun.cut(2)
    assert "has no ended trials of arm any" in refusal(home, spec_with(WARM + "begun-1\n"))
    events = list(
        earlier_trials(home, "job-0", begun.record, job.spec, arms(job.spec, PLAN), PLAN, "f" * 64, simulated=False)
    )
    assert events == list[EarlierTrials]()
