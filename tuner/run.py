"""The driver: one job from where it stands to its verdict, in this process tree.

What a job came to is in its journal and its studies. The driver reads both, does what is still to be done and may die
at any moment: the next one goes on from there.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.runtime import connected_ray, embedded_ray, on_cluster, usable_cpus, usable_gpus
from trainables.config import TrialConfig
from trainables.data.cache import load as load_data
from trainables.hyper import Hyper
from trainables.net import build_model
from trainables.space import Plan
from tuner import arms as arms_
from tuner.bundle import unpack
from tuner.checks import Images, check, check_sampler
from tuner.code import own_code
from tuner.confirm import ListSource, confirm_seeds, confirm_works, selection_works, test_accuracies, winners
from tuner.database import Database
from tuner.dispatch import Dispatcher
from tuner.errors import DriverLost, Interrupted, SearchFailed, ServiceError, SpecError, without_password
from tuner.execution import execute
from tuner.home import Home, JobFolder
from tuner.jobs import spec_of, storage_of
from tuner.journal import Event, Journal, salvage
from tuner.lease import Lease, hold
from tuner.mirror import Mirror, mirrored
from tuner.packing import packed
from tuner.provenance import git_commit, machine, versions
from tuner.publish import publish
from tuner.record import LOST, Record, Round, Stage, Trial, load_record
from tuner.room import OwnMachine, Room, SharedCluster
from tuner.scheduling import Judge
from tuner.search import SearchSource, judge_of
from tuner.sender import Sender, tracking_uri
from tuner.simulation import Clock, simulate
from tuner.spec import SearchSpec, fingerprint, to_dict
from tuner.studies import IN_MEMORY, OUTAGE_S, RETRY_S, open_storage, set_aside_if_damaged
from tuner.study import ArmStudy
from tuner.trials import check_fingerprint, data_request, trial_config
from tuner.view import View
from tuner.work import Source, Stop
from tuner.workers import Workers


@dataclass(frozen=True)
class NewRound:
    """A round of confirm runs to add, unless a driver before this one has: its number, and how many fresh seeds."""

    number: int
    seeds: int


@dataclass
class Job:
    """A job that runs here: its spec, its folder, its journal and what the journal says so far."""

    spec: SearchSpec
    home: Home
    folder: JobFolder
    journal: Journal
    record: Record
    concurrent: int
    scratch: Path
    lease: Lease
    stop: Stop
    mirror: Mirror | None
    plan: Plan
    simulated: Clock | None
    """The made-up time of a simulated job."""
    workers: Workers

    def make_trial(self, hyper: Hyper, seed: int) -> TrialConfig:
        """A trial of this job."""
        return trial_config(self.spec, hyper, seed)

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds of this job's time, monotonic."""
        return self.simulated or time.monotonic

    @contextmanager
    def ray(self, code: Path | None) -> Iterator[None]:
        """What the trials run on."""
        if self.simulated is not None:
            yield
            return
        resources = self.spec.resources
        gpus = usable_gpus() if resources.gpus else 0
        here = (code,) if code else ()
        with (
            connected_ray(code)
            if on_cluster()
            else embedded_ray(self.concurrent * resources.cpus, gpus, self.scratch, here)
        ):
            try:
                yield
            finally:
                self.workers.close()

    def room(self) -> Room:
        """How many trials may run at once."""
        if not on_cluster():
            return OwnMachine(self.concurrent)
        assert self.mirror is not None, "a job of a cluster is in its database"
        return SharedCluster(self.folder.id, self.spec.resources, self.mirror)

    def execute(self, source: Source, judge: Judge | None = None) -> None:
        """Run a stream of trials.

        Raises:
            Interrupted: a signal came; everything done so far is in the journal.
            DriverLost: Ray died.
        """
        dispatcher = Dispatcher(source, self.journal, self.record, self.spec.resources, self.clock)
        if self.simulated is None:
            execute(
                dispatcher,
                self.workers,
                folder=self.folder,
                cache=self.home.cache,
                room=self.room(),
                stop=self.stop,
                lease=self.lease,
                judge=judge,
                metric=self.spec.metric.key,
            )
        else:
            simulate(
                dispatcher,
                plan=self.plan,
                concurrent=self.concurrent,
                clock=self.simulated,
                stop=self.stop,
                judge=judge,
                metric=self.spec.metric.key,
            )
        if self.stop.failure is not None:
            raise self.stop.failure
        if self.stop.signal_number is not None:
            raise Interrupted(
                f"job {self.folder.id} was interrupted; go on with: tuner resume {self.folder.id}",
                self.stop.signal_number,
            )


def drive(
    home: Home,
    folder: JobFolder,
    scratch: Path,
    view: View,
    stop: Stop,
    data_path: str | None = None,
    new_round: NewRound | None = None,
) -> None:
    """Do what is still to be done of a job: search, confirm, judge, export and report.

    Args:
        home: where its data, studies and runs are.
        folder: the job's.
        scratch: a folder for files that are worth nothing afterwards; sockets lie in it, so its name is short.
        view: where progress is shown.
        stop: set from a signal handler.
        data_path: where its data lies now, if not where it did.
        new_round: a round of confirm runs to add.

    Raises:
        TrainableError: the data or the user's code are not right; if the job had not begun, its folder is gone.
        SearchFailed: the baseline, or every variant, has no winner; or the first trials all failed.
        Interrupted: a signal came.
        DriverLost: another driver has to go on.
    """
    with hold(folder.lease, folder.id) as lease, _mended(folder, stop, view) as mirror:
        begun = folder.journal.exists() and bool(load_record(folder.journal).job)
        try:
            prepared = _prepare(home, folder, begun, data_path, stop, view)
        except Exception:
            if not begun and mirror is None:
                folder.forget()
            raise
        with _job(prepared, home, folder, scratch, lease, mirror, stop, view) as job:
            if not job.record.job:
                job.journal.append("job", **_job_event(job, prepared))
            job.journal.append("state", state="running")
            with job.ray(prepared.code), view.watching(job.spec, job.record, job.concurrent):
                if not job.record.rounds:
                    _search(job, prepared, view)
                    _begin_round(job, NewRound(1, job.spec.confirm.seeds))
                elif new_round is not None and len(job.record.rounds) < new_round.number:
                    _begin_round(job, new_round)
                _confirm(job, job.record.rounds[-1])


@dataclass(frozen=True)
class _Prepared:
    """All that a job needs before it starts, checked."""

    spec: SearchSpec
    simulated: bool
    code: Path | None
    images: Images
    fingerprint: str
    plan: Plan
    arms: tuple[arms_.Arm, ...]
    studies: tuple[ArmStudy, ...]
    concurrent: int


def _prepare(home: Home, folder: JobFolder, begun: bool, data_path: str | None, stop: Stop, view: View) -> _Prepared:
    spec, simulated = spec_of(folder, data_path), bool(folder.started()["simulate"])
    code = own_code(spec, _code(folder))
    images, data_fingerprint = _made_up(spec) if simulated else _data(spec, home, view)
    if begun:
        check_fingerprint(data_fingerprint, folder.record().job["data_fingerprint"])
    plan = arms_.plan(spec, images.train)
    arms = arms_.arms(spec, plan)
    check_sampler(spec, arms)
    if spec.resources.auto:
        trial = trial_config(spec, arms[0].hyper(arms[0].default), spec.seed)
        spec = packed(spec, trial, folder, home.cache, code, view.say, lambda: bool(stop), not simulated)
    storage_url = IN_MEMORY if simulated else storage_of(spec, home)
    ours = storage_url == home.storage_url
    if ours and (damaged := set_aside_if_damaged(home.studies)):
        view.say(f"warning: {home.studies} is damaged and now {damaged}; the studies are made again from the journal")
    # Of a job that is new it is told at once; one that goes on has a supervisor who gives up if this does.
    storage = open_storage(storage_url, patient=begun, durable=not ours)
    concurrent = spec.concurrent_on(usable_cpus(), usable_gpus())
    maximize = spec.metric.goal == "maximize"
    view.say(f"job {folder.id}, {concurrent} trials at once, journal in {folder.path}")
    view.say(f"studies in {without_password(storage_url)}, tracked in {without_password(tracking_uri(spec, home))}")
    studies = tuple(
        ArmStudy(storage, folder.id, arm, spec.sampler, spec.seed, spec.budget.trials, maximize) for arm in arms
    )
    return _Prepared(spec, simulated, code, images, data_fingerprint, plan, arms, studies, concurrent)


def _data(spec: SearchSpec, home: Home, view: View) -> tuple[Images, str]:
    """Decode the data and build the model once, so that one that does not fit is told before anything starts."""
    splits = load_data(data_request(spec), home.cache, view.say)
    if spec.data.augment == "flip_crop" and not splits.flips:
        raise SpecError("data.augment: is 'flip_crop', but a mirrored image of this data set changes its label")
    plan = arms_.plan(spec, len(splits.train))
    baseline = arms_.arms(spec, plan)[0]
    trial = trial_config(spec, baseline.hyper(baseline.default), spec.seed)
    build_model(trial, splits.num_classes, splits.train.images_BHWC.shape[1:])
    return Images(len(splits.train), len(splits.val), len(splits.test)), splits.fingerprint


def _made_up(spec: SearchSpec) -> tuple[Images, str]:
    checked = check(spec)
    if checked.images is None:
        raise SpecError("data: how many images there are only reading tells; simulate a spec of another data set")
    return checked.images, "simulated"


def _code(folder: JobFolder) -> Path:
    """Where the user's own modules are: where the job was started, or here, if it came from another machine."""
    if (started := Path(folder.started()["folder"])).is_absolute():
        return started
    database = folder.database()
    if not folder.code.exists() and database is not None and (packed := database.code(folder.id)):
        unpack(packed, folder.code)
    return folder.code


@contextmanager
def _mended(folder: JobFolder, stop: Stop, view: View) -> Iterator[Mirror | None]:
    """A job that this process alone runs, its journal whole and up to date; held in its database, if it has one.

    A damaged journal goes back to its last good state.
    """
    if folder.journal.exists() and (salvaged := salvage(folder.journal)):
        view.say(
            f"warning: {folder.journal} is damaged; going on from its first {salvaged.events} events, all of it is "
            f"kept as {salvaged.original}"
        )
    with mirrored(_database(folder), folder, stop, view.say) as mirror:
        yield mirror


def _database(folder: JobFolder) -> Database | None:
    """The database of the job's record; waited for, if the job goes on, as the studies' is."""
    deadline = time.monotonic() + (OUTAGE_S if folder.journal.exists() else 0.0)
    while True:
        try:
            return folder.database()
        except ServiceError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_S)


@contextmanager
def _job(
    prepared: _Prepared,
    home: Home,
    folder: JobFolder,
    scratch: Path,
    lease: Lease,
    mirror: Mirror | None,
    stop: Stop,
    view: View,
) -> Iterator[Job]:
    """A job whose journal is open and followed by MLflow; its end, whatever it is, is written and published."""
    spec = prepared.spec
    record = load_record(folder.journal) if folder.journal.exists() else Record()

    def heard(event: Event) -> None:
        record.add(event)
        if mirror is not None:
            mirror.heard()
        view.heard(event, record)

    # A simulation writes an event every few microseconds, and can be had again.
    journal = Journal(folder.journal, heard, durable=not prepared.simulated)
    sender = Sender(spec, home, folder)
    try:
        yield Job(
            spec=spec,
            home=home,
            folder=folder,
            journal=journal,
            record=record,
            concurrent=prepared.concurrent,
            scratch=scratch,
            lease=lease,
            stop=stop,
            mirror=mirror,
            plan=prepared.plan,
            simulated=Clock() if prepared.simulated else None,
            workers=Workers(spec.resources.cpus, spec.resources.gpus),
        )
        journal.append("state", state="finished")
        folder.forget_checkpoints()
    except DriverLost:
        journal.close()
        raise
    except BaseException as error:
        state = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        # Where the disk is full, the end of the job cannot be written either; that it was full is what matters.
        with suppress(ServiceError):
            journal.append("state", state=state, reason=str(error))
            _close(journal, sender, folder, view)
        raise
    _close(journal, sender, folder, view)


def _close(journal: Journal, sender: Sender, folder: JobFolder, view: View) -> None:
    journal.close()
    sender.drain()
    sender.attach(publish(folder), folder.summary.read_text())
    sender.register(folder, view.say)
    if sender.problem:
        view.say(f"warning: {sender.problem}; nothing is lost: tuner sync {folder.id} sends the rest")


def _search(job: Job, prepared: _Prepared, view: View) -> None:
    spec, plan = job.spec, prepared.plan
    source = SearchSource(spec, plan, prepared.studies, job.make_trial, job.concurrent, job.record, job.clock)
    # A simulated job's studies end with every driver.
    if source.made_again and not prepared.simulated:
        arms = ", ".join(source.made_again)
        view.say(f"warning: the studies of {arms} did not agree with the journal; they are made again from it")
    job.execute(source, judge_of(spec, plan, job.record))
    if works := selection_works(job.record, spec, job.make_trial):
        job.execute(ListSource(works, job.record))
    chosen = winners(job.record, spec)
    if spec.baseline not in chosen or len(chosen) < 2:
        raise SearchFailed(_why_no_winners(job.record, chosen))


def _begin_round(job: Job, new: NewRound) -> None:
    job.journal.append(
        "confirm",
        round=new.number,
        seeds=confirm_seeds(job.spec, new.number, new.seeds),
        winners={arm: trial.number for arm, trial in winners(job.record, job.spec).items()},
    )


def _confirm(job: Job, confirm_round: Round) -> None:
    spec, number = job.spec, confirm_round.number
    chosen = winners(job.record, spec)
    works = confirm_works(spec, chosen, confirm_round.seeds, number, job.make_trial, job.folder.weights)
    job.execute(ListSource(works, job.record))
    tested = [arm for arm in chosen if test_accuracies(job.record, arm, number)]
    if spec.baseline not in tested or len(tested) < 2:
        raise SearchFailed(_why_no_verdict(job.record, [arm for arm in chosen if arm not in tested], number))


def _why_no_winners(record: Record, chosen: Mapping[str, object]) -> str:
    missing = [arm for arm in record.arms if arm not in chosen]
    lost = [trial for trial in record.of(Stage.SEARCH) if trial.arm in missing]
    return f"no trial of {', '.join(missing)} trained to its end, so there is nothing to compare{_first_failure(lost)}"


def _why_no_verdict(record: Record, missing: Sequence[str], round_number: int) -> str:
    lost = [trial for trial in record.of(Stage.CONFIRM, round_number=round_number) if trial.arm in missing]
    return f"no confirm run of {', '.join(missing)} trained to its end, so there is no verdict{_first_failure(lost)}"


def _first_failure(trials: Sequence[Trial]) -> str:
    lost = [trial for trial in trials if trial.state in LOST]
    return f"; the first of {len(lost)} failures:\n{lost[0].reason}" if lost else ""


def _job_event(job: Job, prepared: _Prepared) -> Event:
    plan, images, folder = prepared.plan, prepared.images, job.folder.started()["folder"]
    return {
        "job": job.folder.id,
        "simulated": prepared.simulated,
        "spec": to_dict(job.spec),
        "spec_sha256": fingerprint(job.spec),
        "arms": [
            {
                "name": arm.name,
                "variant": arm.variant,
                "space": {knob: str(domain) for knob, domain in arm.space.items()},
                "fixed": dict(arm.fixed),
                "default": dict(arm.default),
            }
            for arm in prepared.arms
        ],
        "plan": {"epochs": plan.epochs, "steps_per_epoch": plan.steps_per_epoch},
        "data_fingerprint": prepared.fingerprint,
        "data_images": dataclasses.asdict(images),
        "concurrent": job.concurrent,
        "versions": dict(versions()),
        "machine": dict(machine()),
        "git_commit": git_commit(Path(folder)),
        "folder": folder,
    }
