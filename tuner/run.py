"""One job from spec to verdict, in this process tree."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.runtime import embedded_ray, usable_cpus, usable_gpus
from trainables.config import TrialConfig
from trainables.data.cache import load as load_data
from trainables.data.splits import Splits
from trainables.hyper import Hyper
from trainables.space import Plan
from trainables.training import build_model
from tuner import arms as arms_
from tuner.checks import check_sampler
from tuner.confirm import ListSource, confirm_seeds, confirm_works, selection_works, test_accuracies, winners
from tuner.errors import Interrupted, SearchFailed, SpecError, without_password
from tuner.execution import execute
from tuner.home import Home, JobFolder
from tuner.journal import Event, Journal
from tuner.provenance import git_commit, machine, versions
from tuner.publish import publish
from tuner.record import Record, Stage, State, Trial, replay
from tuner.scheduling import ArmScheduler
from tuner.search import SearchSource
from tuner.sender import Sender, tracking_uri
from tuner.spec import SearchSpec, fingerprint, to_dict
from tuner.study import ArmStudy, open_storage
from tuner.trials import check_fingerprint, data_request, trial_config
from tuner.view import View
from tuner.work import Source, Stop, Work


@dataclass
class Job:
    """A job that runs here: its spec, its folder, its journal and what the journal says so far."""

    spec: SearchSpec
    home: Home
    folder: JobFolder
    journal: Journal
    record: Record
    concurrent: int
    stop: Stop
    view: View

    def make_trial(self, hyper: Hyper, seed: int) -> TrialConfig:
        """A trial of this job."""
        return trial_config(self.spec, hyper, seed)

    def ray(self, code: Path | None) -> AbstractContextManager[None]:
        """A Ray with room for this job's trials."""
        cpus = self.concurrent * self.spec.resources.cpus
        gpus = usable_gpus() if self.spec.resources.gpus else 0
        return embedded_ray(cpus, gpus, (code,) if code else ())

    def execute(self, source: Source, scheduler: ArmScheduler | None = None) -> None:
        """Run a stream of trials.

        Raises:
            Interrupted: a signal came; everything done so far is in the journal.
        """
        execute(
            source,
            journal=self.journal,
            resources=self.spec.resources,
            concurrent=self.concurrent,
            cache_dir=self.home.cache,
            stop=self.stop,
            scheduler=scheduler,
        )
        if self.stop.signal_number is not None:
            raise Interrupted(f"job {self.folder.id} was interrupted", self.stop.signal_number)


def run(spec: SearchSpec, spec_text: str, home: Home, view: View, stop: Stop, code: Path | None = None) -> JobFolder:
    """Search, confirm, judge, export and report.

    Args:
        spec: what to run.
        spec_text: the spec as the user wrote it; kept with the job.
        home: where things go.
        view: where progress is shown.
        stop: set from a signal handler.
        code: folder of the user's own modules.

    Returns:
        The job's folder.

    Raises:
        TrainableError: the data or the user's code are not right; nothing was started.
        SearchFailed: the baseline, or every variant, has no winner; or the first trials all failed.
        Interrupted: a signal came.
    """
    concurrent = spec.concurrent_on(usable_cpus(), usable_gpus())
    splits = load_data(data_request(spec), home.cache, view.say)
    plan = arms_.plan(spec, len(splits.train))
    arms = arms_.arms(spec, plan)
    check_sampler(spec, arms)
    _check_model(spec, splits, arms)
    storage_url = spec.storage or _local_storage(home)
    storage = open_storage(storage_url)
    folder = home.new_job(spec.name)
    folder.spec.write_text(spec_text)
    view.say(f"job {folder.id}, {concurrent} trials at once, journal in {folder.path}")
    view.say(f"studies in {without_password(storage_url)}, tracked in {without_password(tracking_uri(spec, home))}")
    with _job(spec, home, folder, concurrent, stop, view) as job:
        job.journal.append("job", **_job_event(job, arms, plan, splits, code))
        studies = [
            ArmStudy(
                storage,
                folder.id,
                arm,
                spec.sampler,
                spec.seed,
                spec.budget.trials,
                spec.metric.goal == "maximize",
            )
            for arm in arms
        ]
        with job.ray(code), view.watching(spec, job.record, concurrent):
            _search(job, studies, plan)
            if works := selection_works(job.record, spec, job.make_trial):
                job.execute(ListSource(works))
            _confirm(job, round_number=1, count=spec.confirm.seeds)
    return folder


def confirm_again(
    spec: SearchSpec,
    home: Home,
    folder: JobFolder,
    seeds: int,
    view: View,
    stop: Stop,
    code: Path | None = None,
) -> None:
    """A new round of confirm runs of the same winners, on fresh seeds only; its verdict stands alone.

    Raises:
        SpecError: the job has no verdict yet.
    """
    record = folder.record()
    if not record.rounds or record.state not in ("finished", "interrupted", "failed"):
        raise SpecError(f"job {folder.id} is {record.state}; only a job whose search has ended can be confirmed again")
    concurrent = spec.concurrent_on(usable_cpus(), usable_gpus())
    check_fingerprint(load_data(data_request(spec), home.cache, view.say), record.job["data_fingerprint"])
    with _job(spec, home, folder, concurrent, stop, view) as job:
        job.journal.append("state", state="running")
        with job.ray(code), view.watching(spec, job.record, concurrent):
            _confirm(job, round_number=len(record.rounds) + 1, count=seeds)


@contextmanager
def _job(spec: SearchSpec, home: Home, folder: JobFolder, concurrent: int, stop: Stop, view: View) -> Iterator[Job]:
    """A job whose journal is open and followed by MLflow; its end, whatever it is, is written and published."""
    record = folder.record() if folder.journal.exists() else replay(())

    def heard(event: Event) -> None:
        record.add(event)
        view.heard(event, record)

    journal = Journal(folder.journal, heard)
    sender = Sender(spec, home, folder)
    try:
        yield Job(spec, home, folder, journal, record, concurrent, stop, view)
        journal.append("state", state="finished")
    except BaseException as error:
        interrupted = isinstance(error, Interrupted | KeyboardInterrupt)
        if record.job:
            journal.append("state", state="interrupted" if interrupted else "failed", reason=str(error))
        raise
    finally:
        journal.close()
        if record.job:
            sender.drain()
            sender.attach(publish(folder), folder.report.read_text())
            if sender.problem:
                view.say(f"warning: {sender.problem}; nothing is lost: tuner sync {folder.id} sends the rest")


def _search(job: Job, studies: Sequence[ArmStudy], plan: Plan) -> None:
    spec = job.spec
    scheduler = None
    if spec.scheduler.name != "none":
        scheduler = ArmScheduler(spec.metric.key, spec.metric.goal == "maximize", spec.scheduler.reduction_factor)
    job.execute(SearchSource(spec, plan, studies, job.make_trial, job.concurrent), scheduler)
    chosen = winners(job.record, spec)
    if spec.baseline not in chosen or len(chosen) < 2:
        raise SearchFailed(_why_no_winners(job.record, chosen))


def _confirm(job: Job, round_number: int, count: int) -> None:
    spec = job.spec
    seeds = confirm_seeds(spec, round_number, count)
    chosen = winners(job.record, spec)
    job.journal.append(
        "confirm",
        round=round_number,
        seeds=seeds,
        winners={arm: trial.number for arm, trial in chosen.items()},
    )
    works: list[Work] = confirm_works(spec, chosen, seeds, round_number, job.make_trial, job.folder.weights)
    job.execute(ListSource(works))
    tested = [arm for arm in chosen if test_accuracies(job.record, arm, round_number)]
    if spec.baseline not in tested or len(tested) < 2:
        raise SearchFailed(_why_no_verdict(job.record, [arm for arm in chosen if arm not in tested], round_number))


def _why_no_winners(record: Record, chosen: Mapping[str, object]) -> str:
    missing = [arm for arm in record.arms if arm not in chosen]
    lost = [trial for trial in record.of(Stage.SEARCH) if trial.arm in missing]
    return f"no trial of {', '.join(missing)} trained to its end, so there is nothing to compare{_first_failure(lost)}"


def _why_no_verdict(record: Record, missing: Sequence[str], round_number: int) -> str:
    lost = [trial for trial in record.of(Stage.CONFIRM, round_number=round_number) if trial.arm in missing]
    return f"no confirm run of {', '.join(missing)} trained to its end, so there is no verdict{_first_failure(lost)}"


def _first_failure(trials: Sequence[Trial]) -> str:
    lost = [trial for trial in trials if trial.state in (State.FAILED, State.DIVERGED)]
    return f"; the first of {len(lost)} failures:\n{lost[0].reason}" if lost else ""


def _job_event(job: Job, arms: Sequence[arms_.Arm], plan: Plan, splits: Splits, code: Path | None) -> Event:
    return {
        "job": job.folder.id,
        "spec": _portable(job.spec),
        "spec_sha256": fingerprint(job.spec),
        "arms": [
            {
                "name": arm.name,
                "variant": arm.variant,
                "space": {knob: str(domain) for knob, domain in arm.space.items()},
                "fixed": dict(arm.fixed),
                "default": dict(arm.default),
            }
            for arm in arms
        ],
        "plan": {"epochs": plan.epochs, "steps_per_epoch": plan.steps_per_epoch},
        "data_fingerprint": splits.fingerprint,
        "data_images": {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)},
        "concurrent": job.concurrent,
        "versions": dict(versions()),
        "machine": dict(machine()),
        "git_commit": git_commit(code or Path.cwd()),
        "folder": str(code or Path.cwd()),
    }


def _portable(spec: SearchSpec) -> dict[str, Any]:
    """The spec's values, its data path absolute: the job may be confirmed again from another folder."""
    values = to_dict(spec)
    return values | {"data": values["data"] | {"path": data_request(spec).path}}


def _check_model(spec: SearchSpec, splits: Splits, arms: Sequence[arms_.Arm]) -> None:
    """Build the model once, so that one that does not fit the data is told before anything starts."""
    trial = trial_config(spec, arms[0].hyper(arms[0].default), spec.seed)
    build_model(trial, splits.num_classes, splits.train.images_BHWC.shape[1:])
    if spec.data.augment == "flip_crop" and not splits.flips:
        raise SpecError("data.augment: is 'flip_crop', but a mirrored image of this data set changes its label")


def _local_storage(home: Home) -> str:
    home.path.mkdir(parents=True, exist_ok=True)
    return home.storage_url
