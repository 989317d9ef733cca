"""A node loses its network for a while: its trial continues on another node, and its late results are refused."""

import shutil
import time

import pytest

from tests.cluster.namespaces import hosts
from tests.cluster.stack import Stack, named, stack, wait_until
from tests.cluster.test_cluster_faults import SPEC
from tests.faults.checker import check_end_state, values
from tests.faults.services import MlflowServer, Postgres
from tuner.storage.events import State

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.faults,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2"),
]

CUT_S = 40.0
BACK_S = 90.0


def running(up: Stack, job: str) -> dict[str, int]:
    """The number of epochs in the journal of each running trial."""
    trials = up.job(job).record().trials.values()
    return {trial.key: len(trial.epochs) for trial in trials if trial.state == State.RUNNING}


def test_a_node_is_cut_off_for_a_while(
    tmp_path_factory: pytest.TempPathFactory,
    postgres: Postgres,
    mlflow_server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path_factory.mktemp("partition")
    with hosts(2) as (net, made), stack(folder, postgres, mlflow_server, workers=(), net=net) as up:
        for name in ("TUNER_STORAGE", "MLFLOW_TRACKING_URI", "TUNER_SHARED"):
            monkeypatch.setenv(name, up.head_env[name])
        for host in made:
            up.cluster.add_worker(cpus=1, env=up.worker_env, ip=host.ip, within=host.within)
        up.cluster.wait()
        spec = SPEC.replace("epochs: 12", "epochs: 60")
        undisturbed = up.finished(up.submit(spec)).record()

        job = up.submit(named("cut-off", spec))
        up.trained(job, 8)
        before, begun = running(up, job), time.monotonic()
        made[0].cut()
        time.sleep(CUT_S)
        made[0].heal()
        wait_until(lambda: all(now > before[key] for key, now in running(up, job).items() if key in before), BACK_S)
        assert time.monotonic() - begun < BACK_S
        record = check_end_state(up.head, up.finished(job))
    assert {trial.state for trial in record.trials.values()} == {State.COMPLETE}
    assert values(record) == values(undisturbed)
