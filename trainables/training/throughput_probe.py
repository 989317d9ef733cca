"""Measures how fast one trial trains here, beside others: ``python -m trainables.training.throughput_probe``.

It reads one line of JSON (``trial``, ``cache``, ``seconds``), says ``ready`` when it has trained for a moment, waits
for another line, trains for so long, and answers with one line of JSON: ``images_per_s``, or what went wrong.
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
"""Of one epoch of the probe; every one is followed by an evaluation on the share of images that a real one has."""
LONGEST_S = 600.0
EVER = 10**6
"""Epochs planned, so that the schedule never ends."""


def main() -> None:
    """Take the part of one trial."""
    faulthandler.dump_traceback_later(LONGEST_S, exit=True)  # whoever asked may be gone
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
    """Training images a second over whole epochs of at least so many seconds, their evaluations included."""
    started, images = time.monotonic(), 0
    while (passed := time.monotonic() - started) < seconds:
        training.run_epoch()
        images += training.plan.steps_per_epoch * training.config.batch_size
    return images / passed


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that there was no more memory, on the device or the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in str(error).lower()


def _training(asked: Mapping[str, Any]) -> Training:
    trial = replace(TrialConfig.from_dict(asked["trial"]), epochs=EVER)
    process.set_up(trial.threads)
    device = torch.device("cuda" if trial.gpu else "cpu")
    # All of the data takes its room, a part of it makes an epoch.
    data = DeviceSplits(load(trial.data, Path(asked["cache"])), device)
    return Training(trial, data.first(UPDATES * trial.batch_size))


if __name__ == "__main__":
    main()
