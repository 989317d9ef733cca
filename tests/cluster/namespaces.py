"""Hosts of our own: network namespaces, each on a cable to this machine that can be cut and mended."""

import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """A namespace.

    Args:
        name: of the namespace, and of the cable's end on this machine.
        ip: its address.
    """

    name: str
    ip: str

    @property
    def within(self) -> Sequence[str]:
        """Runs a command on this host."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Pull the cable."""
        _run("ip", "link", "set", self.name, "down")

    def heal(self) -> None:
        """Plug it in again."""
        _run("ip", "link", "set", self.name, "up")


@contextmanager
def hosts(count: int) -> Iterator[tuple[str, list[Host]]]:
    """So many hosts, which reach this machine at the first address of a network, and each other not at all.

    Yields:
        The network's first three numbers, and the hosts.
    """
    net = f"10.{random.randint(200, 254)}.{random.randint(0, 254)}"
    made = [Host(f"tt{os.getpid()}{number}", f"{net}.{number + 2}") for number in range(count)]
    try:
        for host in made:
            _make(host, f"{net}.1")
        yield net, made
    finally:
        for host in made:
            # With it goes the cable.
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False)


def _make(host: Host, here: str) -> None:
    inside = f"{host.name}i"
    _run("ip", "netns", "add", host.name)
    _run("ip", "link", "add", host.name, "type", "veth", "peer", "name", inside)
    _run("ip", "link", "set", inside, "netns", host.name)
    _run("ip", "address", "add", here, "peer", host.ip, "dev", host.name)
    _run("ip", "link", "set", host.name, "up")
    for command in (
        ("ip", "link", "set", "lo", "up"),
        ("ip", "address", "add", host.ip, "peer", here, "dev", inside),
        ("ip", "link", "set", inside, "up"),
    ):
        _run(*host.within, *command)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
