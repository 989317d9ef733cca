"""Training on one GPU: the captured update against the plain one and the tutorial's loop, and several trials at once.

It needs only torch and ``trainables``, so it runs on a machine without the other packages:

python -m benchmarks.gpu --data DIR       CIFAR-10 in DIR; without --data, random images of the same shape
python -m benchmarks.gpu --full           one whole trial of 200 epochs
"""

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.measuring import Comparison, Goal, Result, interleaved, say, seconds
from trainables.config import ModelConfig, TrialConfig
from trainables.data.cache import load
from trainables.data.device import DeviceSplits
from trainables.data.request import DataRequest
from trainables.data.splits import Arrays, Raw, Splits
from trainables.hyper import Hyper
from trainables.training.net import build_model
from trainables.training.throughput import images_per_s
from trainables.training.trainer import Training, device_name
from trainables.training.updates import Eager, Static

EPOCHS = 200
GOAL_S = 32.0
SEVERAL_GOAL = 1.5
HYPER = Hyper(lr=1e-3, lambda_norm=0.05)
MADE_UP = DataRequest("benchmarks.gpu:made_up")
"""Random images, as many as CIFAR-10 has and of the same shape. They train as fast."""


@dataclass(frozen=True)
class Size:
    """The size of the training, and its duration.

    Args:
        device: ``cuda``, or ``cpu`` to test that it runs.
        data: images of 32 x 32.
        width: width of the net.
        batch_size: images per update.
        at_once: numbers of trials that share the device, measured one number after the other.
        seconds: duration of the measurement for each of these numbers.
    """

    device: str = "cuda"
    data: DataRequest = MADE_UP
    width: float = 1.0
    batch_size: int = 100
    at_once: tuple[int, ...] = (1, 2, 4, 8)
    seconds: float = 5.0

    def trial(self) -> TrialConfig:
        """One trial of this size."""
        return TrialConfig(
            data=self.data,
            model=ModelConfig("elu_net", {"width": self.width, "setup": "sound"}),
            hyper=HYPER,
            epochs=EPOCHS,
            batch_size=self.batch_size,
            seed=0,
            augment="flip_crop",
            precision="bf16",
            gpu=self.device == "cuda",
        )


def measure(pairs: int) -> Result:
    """Measure at the default size.

    The data is CIFAR-10 in the folder that ``TUNER_DATA`` names. If it is not set, the data is random images.
    """
    return measured(Size(data=_cifar10(os.environ.get("TUNER_DATA"))), pairs)


def measured(size: Size, pairs: int) -> Result:
    """Both comparisons: one trial against the peers, and several trials at once against one.

    Args:
        size: the size of the training.
        pairs: number of timed epochs per side, after one epoch without timing. It is also the number of rounds of
            several trials at once.
    """
    with tempfile.TemporaryDirectory() as cache:
        splits = load(size.trial().data, Path(cache), say)
        comparisons = [*one_trial(size, splits, pairs)]
        rates = several_trials(size, Path(cache), pairs)
    fitting = {trials: rows for trials, rows in rates.items() if len(rows) == pairs}
    best = max(fitting, key=lambda trials: statistics.median(fitting[trials]))
    title, goal = f"{best} trials at once on one device", Goal(SEVERAL_GOAL, "least")
    comparisons.append(Comparison(title, "one trial alone", "images/s", fitting[best], fitting[1], goal))
    how = (
        f"An ELU net of width {size.width:g} trains on {len(splits.train):,} images ({size.data.name}), with batches"
        f" of {size.batch_size}, bf16, flip and crop, and AdamW. The time of a trial is {EPOCHS} times the time of an"
        f" epoch with its evaluation on {len(splits.val):,} images. One epoch before it is not counted. Trials at once"
        f" have their own processes and train for {size.seconds:g} s."
    )
    details = {
        "device": device_name(torch.device(size.device)),
        "torch": torch.__version__,
        f"seconds of {EPOCHS} epochs": round(statistics.median(comparisons[0].ours), 2),
        "seconds aimed at": GOAL_S,
        "images/s by trials at once": {
            trials: round(statistics.median(rows)) if rows else "out of memory" for trials, rows in rates.items()
        },
    }
    return Result(how, tuple(comparisons), details)


def one_trial(size: Size, splits: Splits, pairs: int) -> list[Comparison]:
    """Seconds per trial, ours against each peer. They are computed from single epochs of both sides in turn."""
    data = DeviceSplits(splits, torch.device(size.device))
    ours = _epochs(Training(size.trial(), data, updates=Static))
    peers = {
        "plain updates": _epochs(Training(size.trial(), data, updates=Eager)),
        "a DataLoader's loop, as in the tutorials": Tutorial(size, splits).run,
    }
    return [
        Comparison(f"one trial of {EPOCHS} epochs", peer, "s", *interleaved(ours, theirs, pairs, warmup=1))
        for peer, theirs in peers.items()
    ]


def several_trials(size: Size, cache: Path, rounds: int) -> Mapping[int, tuple[float, ...]]:
    """Images per second by number of trials at once, all trials together, one value per round without memory error."""
    rates: dict[int, list[float]] = {trials: [] for trials in size.at_once}
    for number in range(rounds):
        for trials in size.at_once if number % 2 == 0 else reversed(size.at_once):
            rate = images_per_s(size.trial(), cache, trials, size.seconds)
            say(f"round {number + 1}/{rounds}: {trials} at once {'out of memory' if rate is None else f'{rate:,.0f}'}")
            if rate is not None:
                rates[trials].append(rate)
    return {trials: tuple(rows) for trials, rows in rates.items()}


def full(size: Size) -> float:
    """Seconds of one trial, from its set-up to its last evaluation."""
    with tempfile.TemporaryDirectory() as cache:
        splits = load(size.trial().data, Path(cache), say)

        def run() -> None:
            training = Training(size.trial(), splits, size.device)
            for _ in range(EPOCHS):
                training.run_epoch()

        return seconds(run)


def made_up(path: str | None) -> Raw:
    """Random images, as many as CIFAR-10 has and of the same shape."""
    generator = np.random.default_rng(0)

    def part(count: int) -> Arrays:
        images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return Arrays(images, generator.integers(0, 10, count))

    return Raw(part(50_000), part(10_000), tuple("0123456789"), flips=True)


class Tutorial:
    """An epoch as in PyTorch's own CIFAR-10 tutorial: torchvision's transforms, a DataLoader, float32, Adam."""

    def __init__(self, size: Size, splits: Splits) -> None:
        from torchvision import transforms

        mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
        pixels = [transforms.ToTensor(), transforms.Normalize(mean, std)]
        shifted = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *pixels]
        self.device = torch.device(size.device)
        train, val = _Images(splits.train, transforms.Compose(shifted)), _Images(splits.val, transforms.Compose(pixels))
        self.train = self._loader(train, size, shuffle=True)
        self.val = self._loader(val, size, shuffle=False)
        self.model = build_model(size.trial(), splits.num_classes, (32, 32, 3)).to(self.device)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=HYPER.lr)

    def _loader(self, images: "_Images", size: Size, shuffle: bool) -> "DataLoader[tuple[torch.Tensor, int]]":
        return DataLoader(
            images,
            size.batch_size,
            shuffle,
            num_workers=min(8, len(os.sched_getaffinity(0))),
            pin_memory=size.device == "cuda",
            persistent_workers=True,
        )

    def run(self) -> float:
        """Seconds of a trial, computed from one epoch."""
        return EPOCHS * seconds(self.epoch)

    def epoch(self) -> float:
        """Train and evaluate once, and return the accuracy."""
        self.model.train()
        running_loss = 0.0
        for batch in self.train:
            inputs, labels = batch[0].to(self.device), batch[1].to(self.device)
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(inputs), labels)
            loss.backward()
            self.optimizer.step()
            running_loss += loss.item()
        self.model.eval()
        correct = 0
        with torch.no_grad():
            for batch in self.val:
                inputs, labels = batch[0].to(self.device), batch[1].to(self.device)
                correct += (self.model(inputs).argmax(1) == labels).sum().item()
        return correct / len(self.val.dataset)  # type: ignore[arg-type]


class _Images(Dataset[tuple[torch.Tensor, int]]):
    """Images one by one, as in torchvision's own data sets."""

    def __init__(self, arrays: Arrays, transform: Callable[[object], torch.Tensor]) -> None:
        self._arrays = arrays
        self._transform = transform

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self._transform(Image.fromarray(self._arrays.images_BHWC[index])), int(self._arrays.labels_B[index])


def _cifar10(folder: str | None) -> DataRequest:
    return DataRequest("cifar10", str(Path(folder).absolute())) if folder else MADE_UP


def _epochs(training: Training) -> Callable[[], float]:
    return lambda: EPOCHS * seconds(training.run_epoch)


def main() -> None:
    """The command line, for a machine that has only torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder that holds CIFAR-10")
    parser.add_argument("--pairs", type=int, default=5, help="number of pairs of runs (default 5)")
    parser.add_argument("--full", action="store_true", help="time one trial of 200 epochs instead")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(message="gpu: skipped, there is no GPU here\n")
    size = Size(data=_cifar10(asked.data))
    if asked.full:
        print(json.dumps({"device": device_name(torch.device("cuda")), "seconds": full(size)}))
    else:
        print(json.dumps(dataclasses.asdict(measured(size, asked.pairs)), indent=2))


if __name__ == "__main__":
    main()
