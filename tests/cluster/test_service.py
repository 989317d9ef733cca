"""Jobs on a real cluster, from the user's machine to the verdict and back."""

import json
from collections.abc import Iterator

import pytest

from tests.cluster.stack import Stack, stack
from tests.faults.checker import check_end_state
from tests.faults.services import MlflowServer, Postgres
from tests.tuner.jobs import SPEC
from tuner.export import read_export

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, session_postgres: Postgres, session_mlflow_server: MlflowServer
) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("stack"), session_postgres, session_mlflow_server, SPEC) as made:
        yield made


def test_a_spec_is_submitted_and_comes_back_as_a_verdict(whole: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = whole.tuner("submit", "spec.yaml", "--wait")
    assert ended.code == 0, ended.err
    job = ended.out.splitlines()[0]
    assert "adam_l2" in ended.out
    assert "search 9/9" in ended.err
    for name in ("TUNER_STORAGE", "MLFLOW_TRACKING_URI", "TUNER_SHARED"):
        monkeypatch.setenv(name, whole.head_env[name])
    record = check_end_state(whole.head)
    assert record.name == job

    again = whole.tuner("submit", "spec.yaml", "-o", "json")
    assert json.loads(again.out) == {"job": job, "new": False}
    status = json.loads(whole.tuner("status", job[:-3], "-o", "json").out)
    assert (status["job"], status["state"], status["search"], status["holder"]) == (job, "finished", [9, 9], None)
    assert [row["job"] for row in json.loads(whole.tuner("list", "-o", "json").out)] == [job]
    board = json.loads(whole.tuner("leaderboard", "-o", "json").out)
    assert board["job"] == job
    assert "search/adam_l2/0 complete" in whole.tuner("logs", job).out
    assert job in whole.tuner("report", job).out

    exported = whole.tuner("export", job, "--best", "-o", "best.yaml")
    assert exported.code == 0, exported.err
    assert read_export(whole.here.cwd / "best.yaml").arm in record.arms
    refused = whole.tuner("export", job, "--best", "-o", "best.yaml")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert whole.tuner("export", job, "--arm", "noam", "-o", "w.safetensors").code == 0
    assert whole.tuner("export", job, "--all", "-o", "all").code == 0
    assert sorted(file.name for file in (whole.here.cwd / "all").iterdir()) == [
        f"{arm}.yaml" for arm in sorted(record.arms)
    ]
    unknown = whole.tuner("status", "nosuch")
    assert (unknown.code, unknown.err.count("\n")) == (4, 1)


def test_doctor_tries_every_way_and_tells_what_is_open(whole: Stack) -> None:
    ended = whole.tuner("doctor", "-o", "json")
    hops = {hop["name"]: hop for hop in json.loads(ended.out)}
    # This tracker has no passwords, which is told, and nothing else is wrong.
    assert [name for name, hop in hops.items() if not hop["ok"]] == ["MLflow asks for a password"], hops
    assert ended.code == 5
    workers = {node.ip for node in whole.cluster.workers}
    for way in ("→ checkpoint", "→ data", "→ tracker"):
        assert {name.split()[1] for name in hops if name.endswith(way)} == workers
