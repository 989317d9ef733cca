"""Faults in real jobs with real training. Afterwards every result exists exactly once, as in a job without faults."""

import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.checker import check_end_state, values
from tests.faults.services import MlflowServer, Postgres
from tests.tuner.whole_jobs import Ended, Place, place, wait_for
from tuner.execution.dispatcher import CHECKPOINT_S
from tuner.jobs.record import Record
from tuner.storage.events import EpochRepeated, State
from tuner.storage.file_lock import lock_owner
from tuner.storage.journal import read

pytestmark = pytest.mark.filterwarnings("ignore")

EPOCHS = 24
SPEC = f"""\
name: tiny
data: {{name: digits, train_images: 200, val_images: 100, test_images: 100}}
model: {{name: elu_net, width: 0.03}}
baseline: adam_l2
arms: [adam_l2, noam]
budget: {{trials: 2, epochs: {EPOCHS}, batch_size: 20}}
sampler: random
scheduler: none
confirm: {{seeds: 3}}
"""
ALL_EPOCHS = 2 * (2 + 3) * EPOCHS
RELEASE_S = 10.0


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Record]]:
    """A job without faults, and its record."""
    with place(tmp_path_factory.mktemp("undisturbed"), SPEC) as where:
        ended = where.tuner("run", "spec.yaml", "-q")
        assert ended.code == 0, ended.err
        yield where, check_end_state(where)


@pytest.fixture
def where(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path, SPEC) as made:
        yield made


def epochs(where: Place) -> int:
    """Number of epochs in the journals."""
    journals = list(where.home.path.glob("jobs/*/journal.jsonl"))
    return sum(journal.read_bytes().count(b'"kind": "epoch"') for journal in journals)


def begin(where: Place, count: int = 8, *options: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """Start a job, and wait until it has trained ``count`` epochs in total."""
    process = where.start("run", "spec.yaml", *options, env=env)
    wait_for(lambda: epochs(where) >= count, process)
    return process


def driver(where: Place) -> int:
    """The process id of the driver."""
    found = lock_owner(where.job.lock_file)
    assert found is not None
    return found.pid


def workers(where: Place) -> list[int]:
    """Process ids of the workers that train trials."""
    return [pid for pid in where.processes() if b"Trainable" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def kill_all(where: Place, process: "subprocess.Popen[str]") -> None:
    """Kill all processes of a job at once, as a power failure does. The files on disk stay."""
    os.kill(process.pid, signal.SIGKILL)
    for pid in where.processes():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    assert where.processes_left() == []
    # We find processes by their environment. When a process ends, the kernel removes its environment before it releases
    # the locks of the process.
    until = time.monotonic() + RELEASE_S
    while any(job.is_held_here for job in where.home.jobs()) and time.monotonic() < until:
        time.sleep(0.05)


def resumed(where: Place, *options: str) -> Ended:
    ended = where.tuner("resume", "-q", *options)
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    return ended


def check_as_undisturbed(where: Place, undisturbed: tuple[Place, Record], again_s: float = CHECKPOINT_S) -> Record:
    """Check that the job ended as it does without faults, and return its record.

    Settings and values must be the same, and each epoch must exist once. Little training may be repeated. No process
    and no checkpoint may be left.

    Args:
        where: the place of the job.
        undisturbed: the same job without faults.
        again_s: each new attempt may repeat at most this many seconds of recorded training.
    """
    record = check_end_state(where)
    assert values(record) == values(undisturbed[1])
    assert where.processes_left() == []
    assert not Path(where.job.checkpoints()).exists()
    check_trained_again(where, record, again_s)
    return record


def check_trained_again(where: Place, record: Record, again_s: float = CHECKPOINT_S) -> None:
    """Check that every new attempt repeated only the training since the last checkpoint, or since one was due."""
    again_of: dict[str, float] = defaultdict(float)
    for key, epoch in trained_again(where):
        again_of[key] += record.trials[key].epochs[epoch - 1].seconds
    for key, took_s in again_of.items():
        # The last epoch has no checkpoint. It is recorded a moment before the end of the trial.
        last_s = record.trials[key].epochs[-1].seconds
        assert took_s <= (again_s + last_s) * (record.trials[key].attempts - 1), f"{key}: {took_s:.2f} s again"


def trained_again(where: Place) -> list[tuple[str, int]]:
    """Recorded epochs that were trained again, each as (trial, epoch)."""
    events = (entry.event for entry in read(where.job.journal))
    return [(event.trial, event.epoch) for event in events if isinstance(event, EpochRepeated)]


# Both kills are part of the test after these, which always runs.
@pytest.mark.faults
def test_a_worker_is_killed(where: Place, undisturbed: tuple[Place, Record]) -> None:
    process = begin(where)
    victim = workers(where)[0]
    os.kill(victim, signal.SIGKILL)
    ended = where.ended(process)
    assert ended.code == 0, ended.err
    record = check_as_undisturbed(where, undisturbed)
    # The other trial was not affected, and the driver was not restarted.
    assert sorted(trial.attempts for trial in record.trials.values())[-2:] == [1, 2]
    assert "driver" not in ended.err


@pytest.mark.faults
def test_a_worker_is_stopped_and_then_killed(where: Place, undisturbed: tuple[Place, Record]) -> None:
    process = begin(where)
    victim = workers(where)[0]
    os.kill(victim, signal.SIGSTOP)
    done = epochs(where)
    # The other worker goes on meanwhile.
    wait_for(lambda: epochs(where) > done + EPOCHS, process)
    os.kill(victim, signal.SIGKILL)
    ended = where.ended(process)
    assert ended.code == 0, ended.err
    check_as_undisturbed(where, undisturbed)


@pytest.mark.faults
def test_the_driver_is_killed_and_another_continues_the_job(where: Place, undisturbed: tuple[Place, Record]) -> None:
    process = begin(where)
    os.kill(driver(where), signal.SIGKILL)
    ended = where.ended(process)
    assert ended.code == 0, ended.err
    assert f"the driver of job {where.job.id} was killed by SIGKILL; a new one continues the job" in ended.err
    record = check_as_undisturbed(where, undisturbed)
    assert sum(trial.attempts == 2 for trial in record.trials.values()) in (1, 2)


def test_everything_is_killed_twice_and_resumed(where: Place, undisturbed: tuple[Place, Record]) -> None:
    kill_all(where, begin(where))
    assert where.job.state() == "crashed"
    done = epochs(where)
    process = where.start("resume", "-q")
    # The second kill happens in the confirm runs.
    wait_for(lambda: epochs(where) > max(done, 5 * EPOCHS), process)
    kill_all(where, process)
    resumed(where)
    check_as_undisturbed(where, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize("delay_s", [0.3, 2.0, 5.0, 8.0])
def test_everything_is_killed_before_anything_was_trained(
    where: Place, undisturbed: tuple[Place, Record], delay_s: float
) -> None:
    process = where.start("run", "spec.yaml", "-q")
    time.sleep(delay_s)
    kill_all(where, process)
    if list(where.home.jobs()):
        resumed(where)
    else:
        # Nothing was recorded. There is nothing to resume, and a new run can start.
        assert where.tuner("resume").code == 4
        assert where.tuner("run", "spec.yaml", "-q").code == 0
    check_as_undisturbed(where, undisturbed)


@pytest.mark.faults
def test_the_supervisor_is_killed_and_its_driver_stops_by_itself(where: Place) -> None:
    process = begin(where)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert where.processes_left(patience_s=60) == []
    assert where.job.state() == "interrupted"
    resumed(where)
    check_end_state(where)


@pytest.mark.faults
def test_stop_then_resume(where: Place, undisturbed: tuple[Place, Record]) -> None:
    process = begin(where)
    stopped = where.start("stop", name="-stop")
    assert where.ended(stopped, "-stop").code == 0
    assert where.ended(process).code == 143
    assert where.processes_left() == []
    assert where.job.state() == "interrupted"
    again = where.tuner("stop")
    assert (again.code, again.err.count("\n")) == (2, 1)
    resumed(where)
    check_as_undisturbed(where, undisturbed)
    finished = where.tuner("resume")
    assert finished.code == 2
    assert "is finished" in finished.err


@pytest.mark.faults
def test_only_one_of_two_resumes_at_once_gets_the_lock(where: Place, undisturbed: tuple[Place, Record]) -> None:
    kill_all(where, begin(where))
    both = {name: where.start("resume", "-q", name=name) for name in ("-a", "-b")}
    ended = {name: where.ended(process, name) for name, process in both.items()}
    assert sorted(end.code for end in ended.values()) == [0, 2]
    refused = next(end for end in ended.values() if end.code == 2)
    assert f"error: job {where.job.id} is held by pid" in refused.err
    assert refused.err.count("\n") == 1
    check_as_undisturbed(where, undisturbed)


@pytest.mark.faults
def test_runs_left_running_by_a_crash_are_closed_by_doctor(where: Place) -> None:
    kill_all(where, begin(where))
    found = where.tuner("doctor")
    assert found.code == 5
    assert f"tuner resume {where.job.id}" in found.out
    assert where.tuner("doctor", "--fix").err.startswith(f"{where.job.id}: closed")
    assert where.job.state() == "interrupted"
    assert where.tuner("doctor").code == 0
    resumed(where)
    check_end_state(where)


def flip(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 0x40
    file.write_bytes(content)


def newest_checkpoints(where: Place) -> list[list[Path]]:
    """The checkpoints of every trial that has some; the newest of each trial comes first."""
    folders = {file.parent for file in Path(where.job.checkpoints()).rglob("*.safetensors")}
    return [sorted(folder.glob("*.safetensors"), reverse=True) for folder in sorted(folders)]


def truncate(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(1000)


def truncate_all(files: list[Path]) -> None:
    for file in files:
        truncate(file)


@pytest.mark.faults
@pytest.mark.parametrize(
    "damage",
    [
        lambda files: flip(files[0], len(files[0].read_bytes()) // 2),
        lambda files: truncate(files[0]),
        truncate_all,
        lambda files: shutil.rmtree(files[0].parent),
    ],
    ids=["a-byte-flipped", "truncated", "all-truncated", "all-gone"],
)
def test_a_damaged_checkpoint_is_refused(
    where: Place, undisturbed: tuple[Place, Record], damage: Callable[[list[Path]], object]
) -> None:
    process = begin(where)
    wait_for(lambda: newest_checkpoints(where), process)
    kill_all(where, process)
    there = newest_checkpoints(where)
    assert there
    for files in there:
        damage(files)
    resumed(where)
    check_as_undisturbed(where, undisturbed, again_s=math.inf)
    assert trained_again(where)


@pytest.mark.faults
def test_a_damaged_journal_is_named_and_the_job_continues_from_its_good_part(
    where: Place, undisturbed: tuple[Place, Record]
) -> None:
    kill_all(where, begin(where, count=20))
    journal = where.job.journal
    flip(journal, journal.stat().st_size * 2 // 3)
    damaged = journal.read_bytes()
    named = where.tuner("leaderboard")
    assert named.code == 5
    assert str(journal) in named.err
    ended = where.tuner("resume")
    assert ended.code == 0, ended.err
    assert f"warning: {journal} is damaged; the job continues from its first" in ended.err
    assert journal.with_name("journal.jsonl.damaged-1").read_bytes() == damaged
    # The record can end before the oldest checkpoint that still exists.
    check_as_undisturbed(where, undisturbed, again_s=math.inf)


@pytest.mark.faults
@pytest.mark.parametrize("damage", ["overwritten", "gone"])
def test_a_damaged_database_of_studies_is_named_and_rebuilt(
    where: Place, undisturbed: tuple[Place, Record], damage: str
) -> None:
    kill_all(where, begin(where, count=20))
    database = where.home.studies
    content = bytearray(database.read_bytes())
    if damage == "gone":
        database.unlink()
    else:
        content[4096:] = bytes(len(content) - 4096)
        database.write_bytes(content)
    ended = where.tuner("resume")
    assert ended.code == 0, ended.err
    aside = Path(f"{database}.damaged-1")
    warning = f"warning: {database} is damaged and now {aside}; the studies are rebuilt from the journal"
    assert (warning in ended.err) == (damage == "overwritten")
    assert (aside.exists() and aside.read_bytes() == content) == (damage == "overwritten")
    # The studies are complete at the end of the job: nothing is left to send.
    assert "sends the rest" not in ended.err
    check_as_undisturbed(where, undisturbed)


@pytest.mark.faults
def test_resume_refuses_a_changed_spec_and_names_the_difference(where: Place) -> None:
    kill_all(where, begin(where))
    spec = where.job.spec
    spec.write_text(spec.read_text().replace("batch_size: 20", "batch_size: 25"))
    ended = where.tuner("resume")
    assert ended.code == 2
    assert "budget.batch_size was 20 and is 25" in ended.err
    assert ended.err.count("\n") == 1


IMPATIENT = SPEC + "resources: {silent_minutes: 0.5}\n"


@pytest.mark.faults
def test_a_trial_that_hangs_is_ended_and_tried_again(tmp_path: Path, undisturbed: tuple[Place, Record]) -> None:
    with place(tmp_path, IMPATIENT) as where:
        process = begin(where)
        os.kill(workers(where)[0], signal.SIGSTOP)
        ended = where.ended(process)
        assert ended.code == 0, ended.err
        check_as_undisturbed(where, undisturbed)


@pytest.mark.faults
def test_a_driver_that_hangs_is_killed_and_another_continues_the_job(
    tmp_path: Path, undisturbed: tuple[Place, Record]
) -> None:
    with place(tmp_path, IMPATIENT) as where:
        process = begin(where)
        os.kill(driver(where), signal.SIGSTOP)
        ended = where.ended(process)
        assert ended.code == 0, ended.err
        assert "showed no sign of life and was killed; a new one continues the job" in ended.err
        check_as_undisturbed(where, undisturbed)


@pytest.mark.faults
def test_a_trial_that_takes_too_long_fails(tmp_path: Path) -> None:
    spec = SPEC.replace(f"epochs: {EPOCHS}", "epochs: 5000") + "resources: {trial_hours: 0.001}\n"
    with place(tmp_path, spec) as where:
        ended = where.tuner("run", "spec.yaml", "-q")
        assert ended.code == 7, ended.err
        assert "took longer than resources.trial_hours (0.001 h)" in ended.err
        assert {trial.state for trial in where.job.record().trials.values()} == {State.FAILED}
        assert where.processes_left() == []


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A small disk with its own mount point."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.faults
def test_a_full_disk_ends_the_job_and_resume_works_once_there_is_space(where: Place) -> None:
    with small_disk(where.home.path, megabytes=40):
        process = begin(where)
        filler = where.home.path / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        ended = where.ended(process)
        assert ended.code == 3, ended.err
        assert "Traceback" not in ended.err
        assert str(where.home.path) in ended.err
        assert where.processes_left() == []
        filler.unlink()
        resumed(where)
        check_end_state(where)


DEADLY = """\
import os
import pathlib
import signal


def build(classes, shape):
    with pathlib.Path(__file__).with_name("deaths").open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_driver_that_always_dies_before_any_progress_is_not_restarted_forever(tmp_path: Path) -> None:
    with place(
        tmp_path, SPEC.replace("{name: elu_net, width: 0.03}", "{name: 'mine:build'}"), {"mine.py": DEADLY}
    ) as where:
        ended = where.tuner("run", "spec.yaml", "-q")
        assert ended.code == 1
        assert (where.cwd / "deaths").read_text() == "xx"
        last = ended.err.splitlines()[-1]
        assert last.startswith(
            f"error: the driver of job {where.job.id} was killed by SIGKILL; try again with: tuner resume"
        )
        assert where.processes_left() == []


HUNGRY = """\
import pathlib
from torch import nn
import torch


class Net(nn.Module):
    def __init__(self, classes, shape):
        super().__init__()
        self.linear = nn.Linear(shape[0] * shape[1] * shape[2], classes)
        self.kept = []

    def forward(self, images):
        if self.training and not pathlib.Path(__file__).with_name("fed").exists():
            pathlib.Path(__file__).with_name("fed").touch()
            while True:
                self.kept.append(torch.ones(2**25))
        return self.linear(images.flatten(1))


def build(classes, shape):
    return Net(classes, shape)
"""


@pytest.mark.faults
def test_a_trial_that_is_killed_for_memory_does_not_end_the_search(tmp_path: Path) -> None:
    spec = SPEC.replace("{name: elu_net, width: 0.03}", "{name: 'mine:build'}")
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(meminfo[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
    env = {"RAY_memory_usage_threshold": str((total - free) / total + 4 * 2**20 / total)}
    with place(tmp_path, spec, {"mine.py": HUNGRY}) as where:
        process = where.start("run", "spec.yaml", env=env)
        ended = where.ended(process)
        assert ended.code == 0, ended.err
        record = check_end_state(where)
        states = [trial.state for trial in record.trials.values()]
        assert states.count(State.OOM) == 1
        assert states.count(State.COMPLETE) == len(states) - 1


@pytest.mark.faults
def test_a_job_survives_a_tracker_that_is_down_and_sends_everything_later(
    tmp_path: Path, undisturbed: tuple[Place, Record], mlflow_server: MlflowServer
) -> None:
    with place(tmp_path, SPEC + f"tracking: {{uri: '{mlflow_server.uri}', experiment: {tmp_path.name}}}\n") as where:
        process = begin(where)
        mlflow_server.stop()
        # Restart the server early: its start takes half of the time of such a job.
        wait_for(lambda: epochs(where) > ALL_EPOCHS // 8, process)
        mlflow_server.start()
        ended = where.ended(process)
        assert ended.code == 0, ended.err
        assert "sends the rest" not in ended.err
        check_as_undisturbed(where, undisturbed)


@pytest.mark.faults
def test_sync_sends_a_job_whose_tracker_stayed_down(
    tmp_path: Path, undisturbed: tuple[Place, Record], mlflow_server: MlflowServer
) -> None:
    with place(tmp_path, SPEC + f"tracking: {{uri: '{mlflow_server.uri}', experiment: {tmp_path.name}}}\n") as where:
        process = begin(where)
        mlflow_server.stop()
        ended = where.ended(process)
        assert ended.code == 0, ended.err
        assert f"tuner sync {where.job.id} sends the rest" in ended.err
        assert json.loads(where.job.leaderboard.read_text())["state"] == "finished"
        assert "MLflow runs or registered model are not complete" in where.tuner("leaderboard").err
        mlflow_server.start()
        assert where.tuner("sync").code == 0
        assert "not complete" not in where.tuner("leaderboard").err
        check_as_undisturbed(where, undisturbed)


@pytest.mark.faults
def test_a_job_survives_a_database_that_is_stopped_abruptly_for_15_seconds(
    tmp_path: Path, undisturbed: tuple[Place, Record], postgres: Postgres
) -> None:
    url = postgres.create(f"studies_{os.getpid()}_{time.time_ns()}")
    with place(tmp_path, SPEC + f"storage: {url}\n") as where:
        process = begin(where)
        postgres.stop()
        time.sleep(15)
        postgres.start()
        ended = where.ended(process)
        assert ended.code == 0, ended.err
        check_as_undisturbed(where, undisturbed)


def forget(file: Path) -> None:
    file.unlink()


def overwrite(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(bytes(file.stat().st_size - 4096))


def empty(file: Path) -> None:
    file.write_bytes(b"")


def check_stores_are_complete(
    where: Place, process: "subprocess.Popen[str]", undisturbed: tuple[Place, Record]
) -> None:
    """Check that a job ends as without faults, and says of no store that it lacks something."""
    ended = where.ended(process)
    assert ended.code == 0, ended.err
    assert "once that is mended" not in ended.err
    assert "sends the rest" not in ended.err
    check_as_undisturbed(where, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize("damage", [overwrite, truncate, empty, forget])
def test_the_studies_file_is_damaged_while_the_job_runs(
    where: Place, undisturbed: tuple[Place, Record], damage: Callable[[Path], None]
) -> None:
    process = begin(where, ALL_EPOCHS // 8)
    damage(where.home.studies)
    check_stores_are_complete(where, process, undisturbed)


@pytest.mark.faults
def test_mlflows_file_is_removed_while_the_job_runs(where: Place, undisturbed: tuple[Place, Record]) -> None:
    process = begin(where, ALL_EPOCHS // 8)
    wait_for(where.job.tracked.exists, process)
    where.home.tracking_store.unlink()
    check_stores_are_complete(where, process, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize("delay_s", [0.0, 0.4, 1.2])
def test_everything_is_killed_while_the_results_are_published(
    where: Place, undisturbed: tuple[Place, Record], delay_s: float
) -> None:
    process = begin(where, ALL_EPOCHS - 1)
    wait_for(lambda: b'"state": "finished"' in where.job.journal.read_bytes(), process)
    time.sleep(delay_s)
    kill_all(where, process)
    assert where.job.state() == "finished"
    warned = "the job has finished, but its report, exports" in where.tuner("leaderboard").err
    assert warned == where.job.unpublished.exists()
    assert warned or delay_s > 0
    ended = where.tuner("resume")
    assert ended.code == (0 if warned else 2), ended.err
    assert not where.job.unpublished.exists()
    check_as_undisturbed(where, undisturbed)
    assert {file.stem for file in (where.job.path / "exports").iterdir()} == {"adam_l2", "noam"}
    assert where.tuner("reproduce", "models:/tiny@champion").code == 0


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_signals_end_the_job_at_once_and_it_is_resumed(
    where: Place, undisturbed: tuple[Place, Record], number: int
) -> None:
    process = begin(where)
    for _ in range(2):
        process.send_signal(number)
    ended = where.ended(process)
    assert ended.code == 128 + number, ended.err
    assert "Traceback" not in ended.err
    assert where.processes_left() == []
    resumed(where)
    check_as_undisturbed(where, undisturbed)
