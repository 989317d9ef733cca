"""Several processes that train the same trial at once, as a GPU's trials do: how fast they are all together."""

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
    """Images a second of so many processes that train the trial at once, or None if they ran out of memory.

    Args:
        trial: what each trains; on the first GPU that is visible, if on one.
        cache: decoded data.
        trials: how many.
        seconds: for how long each is timed, once all have begun.
        code: folder of the user's own modules.

    Raises:
        TrainableError: the trial fails.
    """
    asked = json.dumps({"trial": trial.to_dict(), "cache": str(cache), "seconds": seconds})
    with _processes(trials, code) as processes:
        for process in processes:
            _tell(process, asked)
        # Where not all are ready, those that are not have answered already.
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
            raise TrainableError(f"the trial that was to be measured failed: {answer['error']}")
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
            start_new_session=True,  # Ctrl-C is for the driver
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
    # Linux kills what takes the memory of all.
    code = process.wait()
    return {"error": f"it ended with {code}", "out_of_memory": code == -9}
