"""The training script of ``syne_tune_local``: one trial, in its own process."""

from argparse import ArgumentParser
from pathlib import Path

from syne_tune import Reporter

from benchmarks.peers import plain
from benchmarks.peers.task import KNOBS, Task

if __name__ == "__main__":
    parser = ArgumentParser()
    for knob in KNOBS:
        parser.add_argument(f"--{knob}", type=float)
    parser.add_argument("--task", type=Path)
    asked, _ = parser.parse_known_args()
    task = Task.read(asked.task)
    report = Reporter()
    setting = {knob: getattr(asked, knob) for knob in KNOBS}
    for epoch in plain.train(task, plain.Normalisation.of(task), setting):
        report(epoch=epoch.number, loss=epoch.loss, accuracy=epoch.accuracy)
