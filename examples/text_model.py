"""A small model of text that predicts the next character, as a ``ray.tune.Trainable``. See text_model.yaml.

It learns from the source text of Python's standard library, so nothing is downloaded.
"""

import argparse
import difflib
import inspect
import math
import os
import random
from types import ModuleType
from typing import Any

import torch
from ray import tune
from torch import nn
from torch.nn import functional as F

TEXTS: dict[str, ModuleType] = {"train": argparse, "val": difflib, "test": random}
ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127))
BATCH, LENGTH = 32, 64
"""Pieces of text per update, and their characters."""


class Train(tune.Trainable):
    """Trains a recurrent net. One step is ``updates`` updates."""

    def setup(self, config: dict[str, Any]) -> None:
        self.texts = {name: encoded(inspect.getsource(module)) for name, module in TEXTS.items()}
        self.model = Model(config["cell"], config["width"])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config["lr"])

    def step(self) -> dict[str, float]:
        self.model.train()
        for _ in range(self.config["updates"]):
            loss = cross_entropy(self.model, pieces(self.texts["train"]))
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        report = {"val_bits": self.bits("val")}
        # The test text is read in confirm runs only.
        return report | ({"test_bits": self.bits("test")} if self.config["read_test"] else {})

    @torch.no_grad()
    def bits(self, name: str) -> float:
        """Bits per character."""
        self.model.eval()
        text = self.texts[name][: 64 * LENGTH + 1]
        return cross_entropy(self.model, text.unfold(0, LENGTH + 1, LENGTH)).item() / math.log(2)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        torch.save(state, os.path.join(checkpoint_dir, "state.pt"))

    def load_checkpoint(self, checkpoint: Any) -> None:
        state = torch.load(os.path.join(checkpoint, "state.pt"))
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])


class Model(nn.Module):
    """Characters to the logits of the next ones."""

    def __init__(self, cell: str, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(ALPHABET), width)
        self.cell = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](width, width, batch_first=True)
        self.out = nn.Linear(width, len(ALPHABET))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.cell(self.embed(text))
        logits: torch.Tensor = self.out(hidden)
        return logits


def encoded(text: str) -> torch.Tensor:
    """The characters' numbers; other characters are left out."""
    return torch.tensor([ALPHABET.index(character) for character in text if character in ALPHABET])


def pieces(text: torch.Tensor) -> torch.Tensor:
    """Random pieces of the text."""
    starts = torch.randint(len(text) - LENGTH, (BATCH, 1))
    return text[starts + torch.arange(LENGTH + 1)]


def cross_entropy(model: nn.Module, text: torch.Tensor) -> torch.Tensor:
    """Nats per character of predicting each next one."""
    return F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
