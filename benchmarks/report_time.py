"""The run time of `tuner report` on a large job, and the size of its page. It prints JSON.

The job is a simulated search of five arms without pruning, so every trial has all its epochs.

    python -m benchmarks.report_time --trials 200 --epochs 60
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.conditions import conditions
from tests.tuner.whole_jobs import place

SPEC = """\
name: large
data: {{name: digits}}
model: {{name: elu_net, width: 0.03}}
baseline: adam_l2
arms: [adam_l2, adamw, amsgrad, noam, adamw_restarts]
budget: {{trials: {trials}, epochs: {epochs}, batch_size: 50}}
sampler: random
scheduler: none
confirm: {{seeds: 5}}
"""
ARMS = 5


def main() -> None:
    """Simulate the job, run the report several times, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="trials of all arms together")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    spec = SPEC.format(trials=asked.trials // ARMS, epochs=asked.epochs)
    with tempfile.TemporaryDirectory(prefix="tuner-report-") as name, place(Path(name, "job"), spec) as where:
        ended = where.tuner("run", "spec.yaml", "--simulate", "-q")
        if ended.code:
            raise SystemExit(ended.err)
        trials = where.job.record().trials.values()
        runs = []
        for number in range(asked.times):
            file, cpu, begin = Path(name, f"{number}.html"), _cpu_s(), time.monotonic()
            ended = where.tuner("report", "-o", str(file))
            if ended.code:
                raise SystemExit(ended.err)
            took = {"seconds": round(time.monotonic() - begin, 2), "cpu_seconds": round(_cpu_s() - cpu, 2)}
            runs.append(took | {"bytes": file.stat().st_size, "load_average_1m": round(os.getloadavg()[0], 2)})
        epochs = sum(len(trial.epochs) for trial in trials)
    print(json.dumps({"trials": len(trials), "epoch_rows": epochs, "runs": runs} | conditions(), indent=2))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
