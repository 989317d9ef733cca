"""Measures the total speed of several processes that train the same trial at once, like the trials on one GPU."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trainables.config import TrialConfig
from trainables.errors import TrainableError


def images_per_s(
    trial: TrialConfig, cache: Path, trials: int, seconds: float, code: Path | None = None
) -> float | None:
    """Images per second of all processes together, or None if one of them ran out of memory.

    Args:
        trial: the trial that each process trains; a trial on a GPU uses the first visible one.
        cache: folder of the decoded data.
        trials: number of processes that train at once.
        seconds: time for which each process is measured, once all have started.
        code: folder of the user's own modules.

    Raises:
        TrainableError: the trial fails.
    """
    asked = json.dumps({"trial": trial.to_dict(), "cache": str(cache), "seconds": seconds})
    with _processes(trials, code) as processes:
        for process in processes:
            _tell(process, asked)
        # A process that does not print ``ready`` has answered with its error instead.
        begun = [_line(process) for process in processes]
        if all(line == "ready" for line in begun):
            for process in processes:
                _tell(process, "go")
            begun = [_line(process) for process in processes]
        answers = [_answer(process, line) for process, line in zip(processes, begun, strict=True) if line != "ready"]
    if any(answer.get("out_of_memory") for answer in answers):
        return None
    for answer in answers:
        if "error" in answer:
            raise TrainableError(f"the trial failed while its speed was measured: {answer['error']}")
    return sum(float(answer["images_per_s"]) for answer in answers)


@contextmanager
def _processes(count: int, code: Path | None) -> Iterator[Sequence["subprocess.Popen[str]"]]:
    path = os.pathsep.join([*([str(code)] if code else []), *filter(None, [os.environ.get("PYTHONPATH")])])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "trainables.training.throughput_probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C should reach the driver only
        )
        for _ in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(line + "\n")
        process.stdin.flush()


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _answer(process: "subprocess.Popen[str]", line: str) -> dict[str, Any]:
    if line:
        answer: dict[str, Any] = json.loads(line)
        return answer
    # Linux kills a process with signal 9 when the host's memory is exhausted.
    code = process.wait()
    return {"error": f"its process ended with status {code}", "out_of_memory": code == -9}
