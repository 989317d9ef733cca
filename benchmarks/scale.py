"""What a trial costs the driver of a very long search, near its start and at its end, and the memory at the end.

The job is a simulation: the source of trials, the studies, the early stopper, the record, the journal, the lines of
progress, MLflow's follower and the report are the real ones, and the training is made up.

python -m benchmarks.scale TRIALS runs one search in this process, and prints its figures as JSON.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from benchmarks import ask
from benchmarks.measuring import Comparison, Figure, Goal, Result, say
from tuner.driver.context import Context
from tuner.driver.driver import drive
from tuner.jobs.record import Record
from tuner.jobs.request import new_job
from tuner.jobs.stop import StopRequest
from tuner.jobs.workspace import Workspace
from tuner.monitor.terminal import Lines
from tuner.search.study import ArmStudy
from tuner.spec.search_spec import load
from tuner.spec.settings import SamplerSpec
from tuner.storage.events import Entry, TrialEnded

SPEC = """\
name: scale
data: {{name: digits}}
model: {{name: elu_net}}
claim: setting
baseline: adam_l2
arms: [adam_l2, {{variant: adam_l2, name: again}}]
budget: {{trials: {trials}, epochs: 12}}
sampler: random
scheduler: none
confirm: {{seeds: 3}}
resources: {{concurrent: 8}}
"""
TRIALS = 100_000
EARLY, WINDOW = 1000, 500
"""The early figure is the mean over this many trials before the 1,000th. The window grows with the number of trials."""
MARKS = (3_000, 10_000, 30_000)
MEMORY_MB = 2048
ASKED = (1_000, 10_000)
SAMPLERS: tuple[Literal["random", "tpe", "qmc"], ...] = ("random", "tpe", "qmc")
ASKS = 20


def measure(pairs: int, trials: int = TRIALS, asked: tuple[int, ...] = ASKED) -> Result:
    """Run one search in a process of its own. ``pairs`` is not used, because more searches would take an hour."""
    command = [sys.executable, "-m", "benchmarks.scale", str(trials)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    costs = {int(number): cost for number, cost in found["ms_of_cpu_a_trial"].items()}
    say(f"{found}")
    early, late = costs[min(costs)], costs[max(costs)]
    how = (
        f"One simulated search of {trials:,} trials of 12 epochs in two arms, with the random sampler, the lines of"
        " progress and tracking. The figure is CPU time of the driver's loop per trial: the mean over the trials before"
        f" the given number, {WINDOW} of them at {EARLY:,} and a tenth of them later. The memory is the most that the"
        " process has had, with torch, MLflow and the report at the end. The asks are on a study in memory."
    )
    return Result(
        how,
        (
            Comparison(
                f"CPU per trial at {max(costs):,} trials",
                f"the same at {min(costs):,}",
                "ms",
                (late,),
                (early,),
                Goal(1.2, "most"),
            ),
        ),
        details=found,
        figures=(
            Figure(f"Memory of the driver, {trials:,} trials", "MB", (found["memory_mb"],), Goal(MEMORY_MB, "most")),
        ),
        tables={
            "CPU per trial by the number of trials": [
                ("trials", "ms"),
                *((f"{number:,}", f"{cost:.2f}") for number, cost in costs.items()),
            ],
            "CPU per ask by the trials of the study": _asks(asked),
        },
    )


def _asks(sizes: tuple[int, ...]) -> list[tuple[str, ...]]:
    rows = [("sampler", *(f"{size:,} trials" for size in sizes))]
    for name in SAMPLERS:
        rows.append((name, *(f"{_ask_ms(name, size):.2f} ms" for size in sizes)))
    return rows


def _ask_ms(sampler: Literal["random", "tpe", "qmc"], size: int) -> float:
    study = ArmStudy(ask.arm(), SamplerSpec(name=sampler), ask.SEED, size, maximize=True, past=ask.past(size))
    study.ask()
    begin = time.thread_time()
    for _ in range(ASKS):
        study.ask()
    return 1000 * (time.thread_time() - begin) / ASKS


class _Watch(Lines):
    """Makes the lines of progress, prints none of them, and notes the CPU time at the end of each trial."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def announce(self, text: str) -> None:
        """Do nothing."""

    def on_event(self, entry: Entry, record: Record) -> None:
        """Note the end of a trial."""
        super().on_event(entry, record)
        if isinstance(entry.event, TrialEnded) and len(self.ends) < self.searched(record):
            self.ends.append(time.thread_time())

    @staticmethod
    def searched(record: Record) -> int:
        """Number of the trials of the search."""
        return record.spec.budget.trials * len(record.arms)


def run(trials: int) -> dict[str, Any]:
    """Run a search here.

    Returns:
        ``ms_of_cpu_a_trial`` by number of trials, and ``memory_mb``.
    """
    watch = _Watch()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        home, text = Path(name), SPEC.format(trials=trials // 2)
        (home / "spec.yaml").write_text(text)
        spec, workspace = load(home / "spec.yaml"), Workspace(home / "home")
        folder = new_job(workspace, spec, text, home, simulate=True)
        drive(Context(workspace, folder, home, watch, StopRequest()))
    return {
        "ms_of_cpu_a_trial": {number: round(_cost_ms(watch.ends, number), 3) for number in _numbers(len(watch.ends))},
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _numbers(trials: int) -> list[int]:
    return sorted({min(EARLY, trials // 2), *(mark for mark in MARKS if mark < trials), trials})


def _cost_ms(ends: list[float], number: int) -> float:
    window = max(min(WINDOW, number // 2), number // 10)
    return 1000 * (ends[number - 1] - ends[number - 1 - window]) / window


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]))))
