"""Jobs on a real cluster, through its real Jobs API."""

import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import jobs
from cluster.errors import ClusterError, NoSuchJob, Unreachable
from cluster.jobs import JOB, JobsApi, Status
from tests.cluster.forwarder import Forwarder
from tests.cluster.ray_cluster import RayCluster

Submit = Callable[..., str]


@pytest.fixture
def submit(api: JobsApi) -> Submit:
    """Submits a command with a new id."""

    def submit(entrypoint: str, working_dir: Path | None = None) -> str:
        job_id = f"test-{secrets.token_hex(3)}"
        assert api.submit(job_id, entrypoint, working_dir, {JOB: job_id})
        return job_id

    return submit


@pytest.fixture
def forwarder(shared_cluster: RayCluster) -> Iterator[Forwarder]:
    """A port forward to the shared cluster, which a test can interrupt."""
    with Forwarder(shared_cluster.address) as made:
        yield made


def test_following_a_job_yields_each_line_when_it_is_written_and_ends_with_the_job(
    api: JobsApi, submit: Submit
) -> None:
    job_id = submit("for i in 1 2 3; do echo line $i; sleep 0.6; done; printf 'no newline'")
    lines = [(line, time.monotonic()) for line in api.follow(job_id)]
    assert [line for line, _ in lines] == ["line 1", "line 2", "line 3", "no newline"]
    assert lines[-1][1] - lines[0][1] > 0.6
    ended = api.find(job_id)
    assert ended is not None
    assert (ended.status, ended.exit_code, ended.metadata[JOB]) == (Status.SUCCEEDED, 0, job_id)
    assert api.logs(job_id) == "line 1\nline 2\nline 3\nno newline"


def test_a_job_runs_in_its_working_dir_without_what_its_gitignore_names(
    api: JobsApi, submit: Submit, tmp_path: Path
) -> None:
    for name, text in (("spec.yaml", "name: x\n"), ("secret.txt", "s"), (".gitignore", "secret.txt\n")):
        (tmp_path / name).write_text(text)
    job_id = submit("ls; cat spec.yaml", tmp_path)
    assert api.wait(job_id).status == Status.SUCCEEDED
    assert api.logs(job_id) == "spec.yaml\nname: x\n"


def test_a_failed_job_has_its_exit_code_and_a_message_of_one_line(api: JobsApi, submit: Submit) -> None:
    ended = api.wait(submit("echo one; echo two; exit 7"))
    assert (ended.status, ended.exit_code) == (Status.FAILED, 7)
    assert "exit code 7" in ended.message
    assert "\n" not in ended.message


def test_one_of_a_hundred_concurrent_submits_of_one_id_succeeds(api: JobsApi) -> None:
    job_id = f"many-{secrets.token_hex(3)}"
    with ThreadPoolExecutor(100) as threads:
        taken = list(threads.map(lambda _: api.submit(job_id, "true", None, {JOB: job_id}), range(100)))
    assert Counter(taken) == {True: 1, False: 99}
    assert [found.id for found in api.submissions()].count(job_id) == 1


@pytest.mark.parametrize("job_id", ["a/b", "../a", "", "-a", "a b", "a\n", "é", "a" * 201])
def test_an_invalid_id_is_refused(api: JobsApi, job_id: str) -> None:
    with pytest.raises(ClusterError, match="is not a valid job id; use letters, digits, dots, dashes and underscores"):
        api.submit(job_id, "true")


def test_a_missing_folder_cannot_be_submitted(api: JobsApi, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"^cannot submit a-1: .*nowhere.*$"):
        api.submit("a-1", "true", tmp_path / "nowhere")
    assert api.find("a-1") is None


def test_submissions_lists_only_our_jobs_oldest_first(api: JobsApi, submit: Submit) -> None:
    first = submit("true")
    api.submit(f"{first}.x", "true", None, {"other": "1"})
    second = submit("true")
    ids = [found.id for found in api.submissions()]
    assert f"{first}.x" not in ids
    assert ids.index(first) < ids.index(second)


@pytest.mark.parametrize("ask", ["logs", "stop", "delete", "wait", "follow"])
def test_an_unknown_job_is_reported(api: JobsApi, ask: str) -> None:
    assert api.find("nobody-1") is None
    with pytest.raises(
        NoSuchJob, match=r"^the Ray cluster at \S+ has no submission nobody-1; was its head restarted\?$"
    ):
        list(getattr(api, ask)("nobody-1") or ())


def test_a_stopped_job_can_clean_up(api: JobsApi, submit: Submit, tmp_path: Path) -> None:
    script = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved')))\n"
    (tmp_path / "long.py").write_text(f"{script}print('up')\ntime.sleep(300)\n")
    job_id = submit(f"exec {sys.executable} -ISu long.py", tmp_path)
    for line in api.follow(job_id):
        assert line in ("up", "saved")
        if line == "up":
            assert api.stop(job_id)
    assert api.wait(job_id).status == Status.STOPPED
    assert api.logs(job_id) == "up\nsaved\n"
    assert not api.stop(job_id)


def test_a_job_can_be_deleted_only_after_its_end(api: JobsApi, submit: Submit) -> None:
    job_id = submit("sleep 300")
    with pytest.raises(ClusterError, match=f"Attempted to delete job '{job_id}'"):
        api.delete(job_id)
    assert api.wait(job_id, timeout_s=0.2).status in (Status.PENDING, Status.RUNNING)
    while not api.stop(job_id):
        time.sleep(0.1)
    api.wait(job_id)
    api.delete(job_id)
    assert api.find(job_id) is None


def test_a_command_returns_its_exit_code_stdout_and_stderr(api: JobsApi, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("grüße\n")
    ran = api.run("cat data.txt; echo 'it''s' \"$HOME\" >&2; exit 5", tmp_path)
    assert (ran.code, ran.out) == (5, "grüße\n")
    assert ran.err.startswith("its /")


def test_a_command_that_takes_too_long_is_stopped_and_reported(api: JobsApi) -> None:
    with pytest.raises(ClusterError, match=r"^the command did not end on \S+ within 2 s: sleep 301$"):
        api.run("sleep 301", timeout_s=2)
    found = api._dashboard.get("/api/jobs/")
    assert not [one for one in found if "sleep 301" in one["entrypoint"]]


def test_nodes_list_their_resources_and_the_free_ones(api: JobsApi, shared_cluster: RayCluster) -> None:
    head, first, second = api.nodes()
    assert [node.ip for node in (head, first, second)] == [node.ip for node in shared_cluster.nodes]
    assert (head.is_head, head.cpus, head.gpus) == (True, 0, 0)
    assert (first.is_head, first.cpus, first.gpus) == (False, 2, 0)
    assert (second.alive, second.cpus, second.gpus) == (True, 2, 2)
    deadline = time.monotonic() + 30
    while (free := api.nodes()[2]).free_gpus is None and time.monotonic() < deadline:
        time.sleep(0.5)
    assert (free.free_cpus, free.free_gpus) == (2, 2)


def test_following_survives_a_short_loss_of_the_connection(api: JobsApi, submit: Submit, forwarder: Forwarder) -> None:
    job_id = submit("for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done")
    lines = []
    for line in JobsApi.connect(forwarder.address).follow(job_id):
        lines.append(line)
        if len(lines) == 1:
            forwarder.cut()
            forwarder.heal_after(1.0)
    assert lines == ["1", "2", "3", "4", "5", "6"]


def test_a_permanent_loss_of_the_connection_is_not_mistaken_for_the_end(
    api: JobsApi, submit: Submit, forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PATIENCE_S", 1.0)
    job_id = submit("echo up; sleep 300")
    lines = JobsApi.connect(forwarder.address).follow(job_id)
    assert next(lines) == "up"
    forwarder.cut()
    with pytest.raises(Unreachable, match=r"^cannot connect to \S+: connection refused; is the head up"):
        list(lines)
    assert api.stop(job_id)
