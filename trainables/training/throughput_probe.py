"""Measures the speed of one trial beside others of the same kind: ``python -m trainables.training.throughput_probe``.

The process reads one line of JSON (``trial``, ``cache``, ``seconds``), trains one epoch and prints ``ready``. After a
second input line it trains for ``seconds`` and prints one line of JSON: ``images_per_s``, or the error.
"""

import faulthandler
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainables.config import TrialConfig
from trainables.data.cache import load
from trainables.data.device import DeviceSplits
from trainables.training import process
from trainables.training.trainer import Training, device_name

UPDATES = 100
"""Updates per epoch of the probe.

Each epoch ends with an evaluation on the same share of the validation images, so that training and evaluation have the
same proportion as in a real epoch.
"""
LONGEST_S = 600.0
EVER = 10**6
"""Number of planned epochs, so large that the schedule never ends."""


def main() -> None:
    """Measure the speed of one trial."""
    faulthandler.dump_traceback_later(LONGEST_S, exit=True)  # the parent process may be dead
    answers, sys.stdout = sys.stdout, sys.stderr  # the user's model may print
    asked = json.loads(sys.stdin.readline())
    try:
        training = _training(asked)
        training.run_epoch()
        print("ready", file=answers, flush=True)
        sys.stdin.readline()
        answer: Mapping[str, Any] = {"images_per_s": images_per_s(training, asked["seconds"])}
        answer = {**answer, "device": device_name(training.device)}
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        answer = {"error": text, "out_of_memory": out_of_memory(error)}
    print(json.dumps(answer), file=answers, flush=True)


def images_per_s(training: Training, seconds: float) -> float:
    """Training images per second over whole epochs, evaluations included; together they take at least ``seconds``."""
    started, images = time.monotonic(), 0
    while (passed := time.monotonic() - started) < seconds:
        training.run_epoch()
        images += training.plan.steps_per_epoch * training.config.batch_size
    return images / passed


def out_of_memory(error: Exception) -> bool:
    """Whether an error means that the memory of the device or the host is exhausted."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in str(error).lower()


def _training(asked: Mapping[str, Any]) -> Training:
    trial = replace(TrialConfig.from_dict(asked["trial"]), epochs=EVER)
    process.set_up(trial.threads)
    device = torch.device("cuda" if trial.gpu else "cpu")
    # All data is loaded, so that it takes as much memory as in a real trial; an epoch uses only a part of it.
    data = DeviceSplits(load(trial.data, Path(asked["cache"])), device)
    return Training(trial, data.first(UPDATES * trial.batch_size))


if __name__ == "__main__":
    main()
