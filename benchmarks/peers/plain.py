"""Training as in PyTorch's tutorials: a ``DataLoader``, one transform per image, a loop over batches.

The rest comes from the trial: the net, its width, Adam with L2, epochs and batch size. Images are made as in
torchvision's own CIFAR-10: a PIL image from an array in memory, then the transform.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.peers.task import Task
from trainables.data.normalize import constants
from trainables.data.splits import Arrays
from trainables.models import elu_net


class Images(Dataset[tuple[torch.Tensor, int]]):
    """The images of one split."""

    def __init__(self, arrays: Arrays, transform: transforms.Compose) -> None:
        self._arrays = arrays
        self._transform = transform

    def __len__(self) -> int:
        """The number of images."""
        return len(self._arrays)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """A transformed image and its class."""
        image = Image.fromarray(self._arrays.images_BHWC[index])
        return self._transform(image), int(self._arrays.labels_B[index])


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel. The tutorials have them as constants."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, task: Task) -> "Normalisation":
        """The values of the task's training images."""
        shift, scale = constants(task.splits().train.images_BHWC, "standard")
        return cls(tuple(shift[:, 0, 0] / 255), tuple(1 / (255 * scale[:, 0, 0])))


def load_data(task: Task, normalisation: Normalisation) -> dict[str, Images]:
    """The three splits. Training images are flipped and cropped if the trials use ``flip_crop``."""
    splits = task.splits()
    as_tensor = [transforms.ToTensor(), transforms.Normalize(normalisation.mean, normalisation.std)]
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    train = transforms.Compose([*(augment if task.trial.augment == "flip_crop" else []), *as_tensor])
    rest = transforms.Compose(as_tensor)
    return {
        "train": Images(splits.train, train),
        "val": Images(splits.val, rest),
        "test": Images(splits.test, rest),
    }


class Epoch(NamedTuple):
    """The state after an epoch: its number from 1, validation loss and accuracy, net and optimizer."""

    number: int
    loss: float
    accuracy: float
    net: nn.Module
    optimizer: optim.Optimizer


def build(task: Task) -> nn.Module:
    """The net, on the device of the trials."""
    width = float(task.trial.model.options["width"])
    net = elu_net.build(10, (3, 32, 32), width=width)
    return net.to(device_of(task))


def device_of(task: Task) -> str:
    """The device of the trials."""
    return "cuda" if task.trial.gpu else "cpu"


def train(task: Task, normalisation: Normalisation, setting: Mapping[str, Any]) -> Iterator[Epoch]:
    """Train one trial, and yield after each epoch."""
    trial, device = task.trial, device_of(task)
    net = build(task)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(net.parameters(), lr=setting["lr"], weight_decay=setting["l2"])
    images = load_data(task, normalisation)
    trainloader = DataLoader(
        images["train"], batch_size=trial.batch_size, shuffle=True, num_workers=task.loader_workers
    )
    valloader = DataLoader(images["val"], batch_size=trial.batch_size, shuffle=False, num_workers=task.loader_workers)
    for number in range(1, trial.epochs + 1):
        net.train()
        running_loss = 0.0
        for batch in trainloader:
            inputs, labels = batch[0].to(device), batch[1].to(device)
            optimizer.zero_grad()
            loss = criterion(net(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        val_loss, accuracy = evaluate(net, valloader, device)
        yield Epoch(number, val_loss, accuracy, net, optimizer)


@torch.no_grad()
def evaluate(net: nn.Module, loader: "DataLoader[tuple[torch.Tensor, int]]", device: str) -> tuple[float, float]:
    """The mean loss of the batches, and the accuracy."""
    net.eval()
    criterion = nn.CrossEntropyLoss()
    loss, correct, total = 0.0, 0, 0
    for batch in loader:
        inputs, labels = batch[0].to(device), batch[1].to(device)
        outputs = net(inputs)
        loss += criterion(outputs, labels).item()
        correct += (outputs.argmax(1) == labels).sum().item()
        total += len(labels)
    return loss / len(loader), correct / total
