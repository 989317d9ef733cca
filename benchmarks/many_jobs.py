"""Commands in a workspace with 1,000 jobs: the list of jobs, and the status and the leaderboard of one of them."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.measuring import Figure, Goal, Result, say
from tuner.driver.context import Context
from tuner.driver.driver import drive
from tuner.jobs.find import find_job
from tuner.jobs.job_folder import JobFolder
from tuner.jobs.request import new_job
from tuner.jobs.stop import StopRequest
from tuner.jobs.workspace import Workspace
from tuner.monitor.overview import overview
from tuner.monitor.status import status
from tuner.monitor.terminal import Quiet
from tuner.spec.search_spec import load
from tuner.verdict.ranking import job_results

SPEC = """\
name: many
data: {name: digits}
model: {name: elu_net}
claim: setting
baseline: adam_l2
arms: [adam_l2, noam]
budget: {trials: 20, epochs: 12}
sampler: random
confirm: {seeds: 3}
"""
JOBS = 1000
GOAL = Goal(0.5, "most")


def measure(pairs: int, jobs: int = JOBS) -> Result:
    """Measure each command ``pairs`` times, in this process and as a whole command."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        workspace = Workspace(Path(name, "home"))
        made = filled(workspace, jobs)
        first_s = _cpu_s(partial(overview, workspace))
        say(f"the first list reads {jobs} journals: {first_s:.2f} s")
        calls: dict[str, Callable[[], object]] = {
            "list": partial(overview, workspace),
            "status": lambda: status(find_job(workspace, made.id)),
            "leaderboard": lambda: job_results(find_job(workspace, made.id)).board,
            "status latest": lambda: status(find_job(workspace)),
        }
        inside = {title: tuple(_cpu_s(call) for _ in range(pairs)) for title, call in calls.items()}
        commands = {"list": ("list",), "status": ("status", made.id), "leaderboard": ("leaderboard", made.id)}
        whole = {title: [_command_s(workspace, *args) for _ in range(pairs)] for title, args in commands.items()}
    figures = [Figure(f"{title}, without imports", "s of CPU", values, GOAL) for title, values in inside.items()]
    for title, spent in whole.items():
        figures.append(Figure(f"tuner {title}, the whole command", "s of CPU", tuple(cpu for cpu, _ in spent)))
        figures.append(
            Figure(f"tuner {title}, the whole command", "s of wall time", tuple(wall for _, wall in spent), GOAL)
        )
    how = (
        f"A workspace with {jobs:,} finished jobs of two arms, with 20 trials per arm and 12 epochs. The first list"
        " reads the journals and keeps their summaries. The figures are those of the lists after it."
    )
    return Result(how, details={"first_list_s_of_cpu": round(first_s, 2)}, figures=tuple(figures))


def filled(workspace: Workspace, jobs: int) -> JobFolder:
    """Fill a workspace with copies of one simulated job; returns one in their middle."""
    text = workspace.path.with_name("spec.yaml")
    text.write_text(SPEC)
    first = new_job(workspace, load(text), SPEC, text.parent, simulate=True)
    drive(Context(workspace, first, text.parent, Quiet(), StopRequest()))
    start = json.loads(first.start.read_text())
    for number in range(1, jobs):
        copy = JobFolder(first.path.with_name(f"many-simulated-{number:06x}"))
        copy.path.mkdir()
        shutil.copyfile(first.journal, copy.journal)
        shutil.copyfile(first.spec, copy.spec)
        copy.start.write_text(json.dumps(start | {"ms": start["ms"] + number}))
    return JobFolder(first.path.with_name(f"many-simulated-{jobs // 2:06x}"))


def _cpu_s(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def _command_s(workspace: Workspace, *args: str) -> tuple[float, float]:
    """CPU and wall time of a whole command."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "tuner.cli", *args]
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "TUNER_HOME": str(workspace.path)}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - begin
