"""Simulated hosts: network namespaces, each with a virtual cable to this machine that a test can disconnect."""

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
        name: name of the namespace, and of the cable's end on this machine.
        ip: address of the host.
    """

    name: str
    ip: str

    @property
    def within(self) -> Sequence[str]:
        """The words to put before a command that must run on this host."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Disconnect the cable."""
        _run("ip", "link", "set", self.name, "down")

    def heal(self) -> None:
        """Connect the cable again."""
        _run("ip", "link", "set", self.name, "up")


@contextmanager
def hosts(count: int) -> Iterator[tuple[str, list[Host]]]:
    """Hosts that reach this machine at the first address of a network, but not each other.

    Args:
        count: the number of hosts.

    Yields:
        The first three numbers of the network's addresses, and the hosts.
    """
    net = f"10.{random.randint(200, 254)}.{random.randint(0, 254)}"
    made = [Host(f"tt{os.getpid()}{number}", f"{net}.{number + 2}") for number in range(count)]
    try:
        for host in made:
            _make(host, f"{net}.1")
        yield net, made
    finally:
        for host in made:
            # This also removes the cable.
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
