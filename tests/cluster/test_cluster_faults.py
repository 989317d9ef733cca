"""Faults that only a cluster has: lost nodes, a lost head, many submits at once, jobs that share the cluster."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.cluster.stack import Stack, named, wait_until
from tests.faults.checker import check_end_state, values
from tests.faults.test_faults import SPEC as ON_ONE_MACHINE
from tuner.jobs.record import Record
from tuner.storage.events import State
from tuner.storage.journal import read

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]

EPOCHS = 12
SPEC = ON_ONE_MACHINE.replace("epochs: 24", f"epochs: {EPOCHS}")


@pytest.fixture(scope="session")
def undisturbed(whole_stack: Stack) -> Record:
    """The record of a job without faults."""
    return whole_stack.finished(whole_stack.submit(SPEC)).record()


def check(up: Stack, job: str, undisturbed: Record) -> Record:
    """Check that a job has the settings and values of a job without faults, and each result once."""
    record = check_end_state(up.head, up.finished(job))
    assert values(record) == values(undisturbed)
    return record


def test_a_hundred_submits_at_once_are_one_job(up: Stack) -> None:
    spec = named("hundred", SPEC).replace(f"epochs: {EPOCHS}", "epochs: 3")
    (up.here.cwd / "hundred.yaml").write_text(spec)
    code = (
        "import json, sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from pathlib import Path\n"
        "from tuner.control.cluster_job import Service\n"
        "service = Service()\n"
        "with ThreadPoolExecutor(20) as pool:\n"
        "    print(json.dumps(list(pool.map(lambda _: service.submit(Path('hundred.yaml')), range(100)))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=up.here.cwd,
        env=up.here.env() | up.cluster.client_env,
        capture_output=True,
        text=True,
        check=True,
    )
    submitted = json.loads(done.stdout)
    assert len({job for job, _ in submitted}) == 1
    assert sum(new for _, new in submitted) == 1
    record = check_end_state(up.head, up.finished(submitted[0][0]))
    assert len(record.trials) == 2 * (2 + 3)


@pytest.mark.faults
def test_a_worker_node_dies_and_its_trials_go_on_elsewhere(up: Stack, undisturbed: Record) -> None:
    job = up.submit(named("node-dies", SPEC))
    up.trained(job, 8)
    up.cluster.kill(up.cluster.workers[0])
    record = check(up, job, undisturbed)
    assert max(trial.attempts for trial in record.trials.values()) == 2
    up.cluster.add_worker(cpus=1, env=up.worker_env)
    up.cluster.wait()


@pytest.mark.faults
def test_the_head_dies_and_the_keeper_goes_on_with_its_job_on_a_new_one(up: Stack, undisturbed: Record) -> None:
    job = up.submit(named("head-dies", SPEC))
    up.trained(job, 8)
    up.restart_head()
    # The head has lost its disk too: only the database still has the job.
    up.forget_head(job)
    listed = {row["job"]: row["state"] for row in json.loads(up.tuner("list", "-o", "json").out)}
    assert listed[job] == "crashed"
    kept = up.keep_once()
    assert kept.out.split() == [f"{job}.2"], kept.err
    check(up, job, undisturbed)
    assert up.keep_once().out == ""


@pytest.mark.faults
def test_a_job_is_stopped_from_afar_and_resumed(up: Stack, undisturbed: Record) -> None:
    job = up.submit(named("stopped", SPEC))
    up.trained(job, 8)
    stopped = up.tuner("stop", job)
    assert (stopped.code, stopped.err) == (0, f"{job}: stopped; resume it with: tuner resume {job}\n")
    assert up.state(job) == "interrupted"
    again = up.tuner("stop", job)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert up.tuner("resume", job).out == f"{job}\n"
    check(up, job, undisturbed)
    finished = up.tuner("resume", job)
    assert finished.code == 2
    assert "is finished" in finished.err


@pytest.mark.faults
def test_whoever_follows_a_log_may_go(up: Stack, undisturbed: Record) -> None:
    job = up.submit(named("followed", SPEC))
    follower = up.start("logs", job, "-f", name="-follow")
    up.trained(job, 4)
    os.kill(follower.pid, signal.SIGKILL)
    follower.wait()
    record = check(up, job, undisturbed)
    assert {trial.attempts for trial in record.trials.values()} == {1}


@pytest.mark.faults
def test_two_jobs_share_the_cluster(up: Stack) -> None:
    # A worker takes seconds to start. Trials must be longer, or the second job has no worker while the first one runs.
    longer = SPEC.replace("trials: 2", "trials: 6").replace(f"epochs: {EPOCHS}", f"epochs: {5 * EPOCHS}")
    first = up.submit(named("first", longer))
    up.trained(first, 4)
    second = up.submit(named("second", longer))
    folders = [up.finished(job) for job in (first, second)]
    for folder in folders:
        check_end_state(up.head, folder)
    # While both jobs ran, each had its own node: no job used both nodes for longer than one trial.
    spans = [[(entry.ms, entry.event.kind) for entry in read(folder.journal)] for folder in folders]
    begun, ended = spans[1][0][0], min(span[-1][0] for span in spans)
    counts = [sum(kind == "epoch" and begun < ms < ended for ms, kind in span) for span in spans]
    assert min(counts) > max(counts) / 4, counts


@pytest.mark.faults
def test_a_job_without_free_resources_reports_what_it_waits_for(up: Stack) -> None:
    # These two jobs occupy both nodes and would never end.
    long = SPEC.replace(f"epochs: {EPOCHS}", "epochs: 100000") + "resources: {concurrent: 1}\n"
    jobs = [up.submit(named("early", long)), up.submit(named("earlier", long))]
    for job in jobs:
        up.trained(job, 1)
    late = up.submit(named("late", long))
    wait_until(lambda: json.loads(up.tuner("status", late, "-o", "json").out)["waits"])
    status = json.loads(up.tuner("status", late, "-o", "json").out)
    assert status["waits"] == f"for a node with 1 CPUs free; also running: {', '.join(jobs)}"
    assert f"{status['waits']}\n" in up.tuner("status", late).out
    assert up.epochs(late) == 0
    for job in (*jobs, late):
        assert up.tuner("stop", job).code == 0


OWN = """\
from torch import nn


def build(classes, shape, hidden=8):
    channels, height, width = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.Linear(hidden, classes))
"""


def test_own_code_is_uploaded_without_ignored_files(up: Stack) -> None:
    code = up.here.cwd / "mycode"
    code.mkdir()
    for name, text in {"mine.py": OWN, ".gitignore": "secret.txt\n", "secret.txt": "s", ".env": "s"}.items():
        (code / name).write_text(text)
    spec = named("own", SPEC).replace("{name: elu_net, width: 0.03}", "{name: 'mine:build'}") + "code: mycode\n"
    job = up.submit(spec.replace(f"epochs: {EPOCHS}", "epochs: 3"))
    folder = up.finished(job)
    assert {trial.state for trial in folder.record().trials.values()} == {State.COMPLETE}
    files = [file for file in folder.code.iterdir() if file.is_file()]
    assert sorted(file.name for file in files) == [".gitignore", "mine.py"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


REFUSED: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "more CPUs than any node has": ("resources: {cpus: 64}\n", (), "resources: a trial needs 64 CPUs"),
    "a GPU where there is none": ("resources: {gpus: 1}\n", (), "resources: a trial needs 1 CPUs and 1 GPUs"),
    "SQLite across nodes": ("storage: sqlite:///here.db\n", (), "storage: must be Postgres on a cluster"),
    "a path of this machine": ("", ("--data", "here"), "data.path"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_submit_refuses_a_spec_that_no_node_can_run(up: Stack, what: str) -> None:
    more, options, said = REFUSED[what]
    spec = named("refused", SPEC) + more
    if options:
        spec = spec.replace("{name: digits,", "{name: cifar10,")
    (up.here.cwd / "refused.yaml").write_text(spec)
    ended = up.tuner("submit", "refused.yaml", *options)
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert said in ended.err
