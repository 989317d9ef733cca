"""Many jobs of one spec at once in one workspace: each ends as if it had been alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.checker import check_end_state, values
from tests.tuner.whole_jobs import SPEC, Place, place
from tuner.storage.events import State

ALONE = SPEC.replace("scheduler: {name: asha, first_rung: 2, reduction_factor: 2}", "sampler: random\nscheduler: none")
PATIENCE_S = 1500.0


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.parametrize(("real", "simulated"), [(5, 15)])
def test_jobs_of_one_spec_at_once_in_one_workspace_end_as_alone(tmp_path: Path, real: int, simulated: int) -> None:
    with place(tmp_path / "alone", ALONE) as where:
        boards = {kind: _board(where, kind) for kind in ("real", "simulated")}
        [alone] = [job for job in where.home.jobs() if "simulated" not in job.id]
        expected = values(check_end_state(where, alone))
    with place(tmp_path / "together", ALONE) as where:
        kinds = {
            f"-{kind}-{n}": kind for kind, count in (("real", real), ("simulated", simulated)) for n in range(count)
        }
        running = {name: where.start(*_command(kind), name=name) for name, kind in kinds.items()}
        for name, process in running.items():
            ended = where.ended(process, name, PATIENCE_S)
            assert ended.code == 0, (name, ended.err)
            assert _without_id(json.loads(ended.out)) == boards[kinds[name]], name
        jobs = list(where.home.jobs())
        assert len(jobs) == len(running)
        for job in jobs:
            if "simulated" in job.id:
                record = job.record()
                assert record.state == "finished"
                assert {trial.state for trial in record.trials.values()} == {State.COMPLETE}
            else:
                # MLflow's one file may have been busy for too long.
                synced = where.tuner("sync", job.id)
                assert synced.code == 0, synced.err
                assert values(check_end_state(where, job)) == expected
        listed = json.loads(where.tuner("list", "-o", "json").out)
        assert {row["job"]: row["state"] for row in listed} == {job.id: "finished" for job in jobs}
        assert where.processes_left() == []


def _command(kind: str) -> tuple[str, ...]:
    return ("run", "spec.yaml", "-q", "-o", "json", *(("--simulate",) if kind == "simulated" else ()))


def _board(where: Place, kind: str) -> dict[str, Any]:
    ended = where.tuner(*_command(kind))
    assert ended.code == 0, ended.err
    return _without_id(json.loads(ended.out))


def _without_id(board: dict[str, Any]) -> dict[str, Any]:
    """A leaderboard without what differs from run to run: the id of the job, and the seconds of training."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in board["rows"]]
    return {**board, "job": "", "rows": rows}
