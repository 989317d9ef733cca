"""Slowdown of a job while its MLflow server is down: pairs of the same job, in turn. Prints JSON.

The server is killed when the job has its first epoch on record. It starts again after the given seconds, or (``inf``)
after the end of the job. Training time is the sum of the epochs' durations on record. Wall time is from the first epoch
on record to the end of the last trial. It does not include the 15 s for which an ended job waits for its MLflow server.

    python -m benchmarks.tracker_outage --pairs 5 --away 30 inf
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.conditions import conditions
from tests.faults.services import MlflowServer, Postgres, running
from tests.tuner.whole_jobs import Place, place, wait_for
from tuner.storage.events import EpochReported, TrialEnded
from tuner.storage.journal import read

SPEC = """\
name: outage
data: {{name: digits}}
model: {{name: elu_net, width: 0.0625}}
baseline: adam_l2
arms: [adam_l2, noam]
budget: {{trials: 4, epochs: {epochs}, batch_size: 50}}
sampler: random
scheduler: none
confirm: {{seeds: 3}}
tracking: {{uri: '{tracker}', experiment: outage}}
"""
LONG_S = 3600.0


def job(tracker: MlflowServer, epochs: int, away_s: float) -> dict[str, float]:
    """Run one job whose server is down for ``away_s`` seconds. Returns its training time and wall time in seconds."""
    with (
        tempfile.TemporaryDirectory(prefix="outage-") as name,
        place(Path(name) / "place", SPEC.format(epochs=epochs, tracker=tracker.uri)) as where,
    ):
        process = where.start("run", "spec.yaml", "-q")
        if away_s:
            wait_for(lambda: has_trained(where), process)
            tracker.stop()
        try:
            code = process.wait(away_s if 0 < away_s < math.inf else LONG_S)
        except subprocess.TimeoutExpired:
            tracker.start()
            code = process.wait(LONG_S)
        assert code == 0, (where.root / "err").read_text()
        tracker.start()
        return times(where)


def has_trained(where: Place) -> bool:
    """Whether an epoch is on record."""
    return any(b'"kind": "epoch"' in file.read_bytes() for file in where.home.path.glob("jobs/*/journal.jsonl"))


def times(where: Place) -> dict[str, float]:
    """Training time and wall time from the journal of the job, in seconds."""
    entries = list(read(where.job.journal))
    first = next(entry.up for entry in entries if isinstance(entry.event, EpochReported))
    last = max(entry.up for entry in entries if isinstance(entry.event, TrialEnded))
    training_s = sum(entry.event.report.seconds for entry in entries if isinstance(entry.event, EpochReported))
    return {"training_s": training_s, "wall_s": last - first}


def compare(pairs: Sequence[tuple[dict[str, float], dict[str, float]]]) -> dict[str, object]:
    """Medians with the server up and down, the median of the pairs' ratios, and all ratios."""
    found: dict[str, object] = {}
    for key in ("training_s", "wall_s"):
        ratios = sorted(away[key] / up[key] for up, away in pairs)
        found[key] = {
            "up": round(statistics.median(up[key] for up, _ in pairs), 1),
            "away": round(statistics.median(away[key] for _, away in pairs), 1),
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }
    return found


def main() -> None:
    """Print one JSON object per kind of outage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--away", type=float, nargs="+", default=[30.0, math.inf])
    asked = parser.parse_args()
    # SIGTERM raises KeyboardInterrupt, so that the services are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="tuner-outage-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        postgres = Postgres(folder / "postgres", {"fsync": "on"})
        os.environ |= postgres.env
        with running(postgres):
            tracker = MlflowServer(postgres.create("mlflow"), folder / "mlflow", postgres.env)
            with running(tracker):
                job(tracker, 2, 0)
                for away in asked.away:
                    pairs = []
                    for number in range(asked.pairs):
                        # The order alternates, because the other load of the machine may change in the meantime.
                        order = (0, away) if number % 2 == 0 else (away, 0)
                        done = {which: job(tracker, asked.epochs, which) for which in order}
                        pairs.append((done[0], done[away]))
                    result = {"away_s": str(away), "pairs": asked.pairs, "epochs": asked.epochs} | compare(pairs)
                    print(json.dumps(result | conditions()), flush=True)


if __name__ == "__main__":
    main()
