"""Recovery time of a job: from the kill of a process until each affected trial has its next epoch on record.

python -m benchmarks.recovery --times 10
"""

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.test_faults import driver, workers
from tests.tuner.whole_jobs import Place, place, wait_for
from tuner.jobs.record import Record, replay
from tuner.storage.events import State
from tuner.storage.journal import read

SPEC = """\
name: recovery
data: {name: digits}
model: {name: elu_net, width: 0.0625}
baseline: adam_l2
arms: [adam_l2, noam]
budget: {trials: 1, epochs: 100000, batch_size: 50}
scheduler: none
resources: {concurrent: 2}
confirm: {seeds: 3}
"""
SETTLE_S = 3.0


def kill_worker(where: Place) -> None:
    """Kill one of the two workers."""
    os.kill(workers(where)[0], signal.SIGKILL)


def kill_driver(where: Place) -> None:
    """Kill the driver, and with it Ray and both workers."""
    os.kill(driver(where), signal.SIGKILL)


KINDS: dict[str, Callable[[Place], None]] = {"worker": kill_worker, "driver": kill_driver}


def record(where: Place) -> Record:
    """The record of the job so far."""
    return replay(read(where.job.journal))


def attempts(where: Place) -> dict[str, tuple[int, int]]:
    """Number of attempts and of epochs on record, for each running trial."""
    trials = record(where).trials.values()
    return {t.key: (t.attempts, len(t.epochs)) for t in trials if t.state == State.RUNNING}


def recovery_s(where: Place, cause: Callable[[Place], None]) -> float:
    """Seconds from the fault until every affected trial has an epoch of a new attempt on record."""
    before = attempts(where)
    begun = time.monotonic()
    cause(where)
    while True:
        now = attempts(where)
        hit = [key for key in before if now[key][0] > before[key][0]]
        if hit and all(now[key][1] > before[key][1] + 1 for key in hit):
            return time.monotonic() - begun
        time.sleep(0.05)


def main() -> None:
    """Print one JSON object per kind of fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    for kind, cause in KINDS.items():
        with tempfile.TemporaryDirectory(prefix="recovery-") as folder, place(Path(folder) / "place", SPEC) as where:
            process = where.start("run", "spec.yaml", "-q")
            wait_for(
                lambda where=where: any(where.home.path.glob("jobs/*/journal.jsonl")) and len(attempts(where)) == 2,
                process,
            )
            seconds = []
            for _ in range(times):
                time.sleep(SETTLE_S)
                seconds.append(recovery_s(where, cause))
            process.send_signal(signal.SIGTERM)
            process.wait()
        spread = {"p50": statistics.median(seconds), "p95": statistics.quantiles(seconds, n=20, method="inclusive")[-1]}
        print(
            json.dumps(
                {"fault": kind, "times": times}
                | {k: round(v, 1) for k, v in spread.items()}
                | {"max": round(max(seconds), 1)}
            )
        )


if __name__ == "__main__":
    main()
