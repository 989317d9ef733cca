"""A whole search, from the command to its end, as ``tuner`` and as users of other tools run it.

Ours is ``tuner run`` with tracking, its confirm runs and its report; what it trained, confirm runs among it, is what
each peer then trains: the same settings, epochs, images and batches, in a program of its own with its way of tracking.
``--data`` runs the size of ``searches/cifar10-small.yaml`` instead of the quickstart's, on CIFAR-10 in a folder:

    python -m benchmarks.whole_search --data FOLDER --pairs 5
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.measuring import Comparison, Goal, Result, interleaved, seconds
from benchmarks.peers.running import installed, run_peer, run_tuner
from benchmarks.peers.syne_tune_local import REQUIREMENTS
from benchmarks.peers.task import Task, task_of
from tests.tuner.whole_jobs import Place, place

SPEC = """\
name: whole
data: {data}
model: {{name: elu_net, width: {width}, setup: sound}}
baseline: adam_l2
arms: [adam_l2, {{variant: adam_l2, name: again}}]
budget: {{trials: {trials}, epochs: {epochs}, batch_size: {batch_size}}}
sampler: random
scheduler: none
confirm: {{seeds: 3}}
"""
TUTORIAL_WORKERS, TUTORIAL_CPUS = 8, 2
"""What the Ray Tune tutorials write: processes of each ``DataLoader``, and CPUs of a trial."""
FEWER_PAIRS = 2
"""Of comparisons that have no goal."""


class Peer(NamedTuple):
    """A program of ``benchmarks.peers``, what it is called, and how it loads data."""

    module: str
    title: str
    loader_workers: int
    cpus: int
    goal: Goal | None = None
    requirements: tuple[str, ...] = ()
    """Packages that the project itself does not need."""


PEERS = (
    Peer(
        "ray_tutorial",
        "Ray Tune as in its PyTorch tutorial: 8 loader processes and 2 CPUs a trial",
        TUTORIAL_WORKERS,
        TUTORIAL_CPUS,
        Goal(5, "least"),
    ),
    Peer("ray_tutorial", "the same without loader processes, 1 CPU a trial", 0, 1),
    Peer("ray_best", "Ray Tune, class API, actors reused, our training loop, no tracking", 0, 1),
    Peer("optuna_processes", "Optuna, a process a CPU, journal file, MLflow", 0, 1),
    Peer("syne_tune_local", "Syne Tune, local backend, not tracked", 0, 1, requirements=REQUIREMENTS),
)


class Search(NamedTuple):
    """The size of a search: its data, as in a spec, and what is trained; ``trials`` of each of two arms."""

    data: str
    width: float
    trials: int
    epochs: int
    batch_size: int

    def spec(self) -> str:
        """What ``tuner`` runs."""
        return SPEC.format(**self._asdict())


QUICKSTART = Search("{name: digits}", width=0.0625, trials=3, epochs=12, batch_size=50)


def cifar10_small(folder: Path) -> Search:
    """CIFAR-10 in a folder."""
    path = json.dumps(str(folder.absolute()))
    data = f"{{name: cifar10, path: {path}, train_images: 6000, val_images: 1500, augment: flip_crop}}"
    return Search(data, width=0.125, trials=3, epochs=12, batch_size=100)


def measure(pairs: int, search: Search = QUICKSTART, peers: Sequence[Peer] = PEERS) -> Result:
    """Compare with each peer."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, place(Path(name, "place"), search.spec()) as where:
        run_tuner(where)
        trained = len(task_of(where.home, 0, 1).trials)
        compared = tuple(_compared(where, peer, pairs) for peer in peers)
    how = (
        f"{trained} trials of {search.epochs} epochs on {search.data}, width {search.width:g}, batches of "
        f"{search.batch_size}, all Adam with L2; from the command to its end, ours with confirm runs and report."
    )
    return Result(how, compared)


def _compared(where: Place, peer: Peer, pairs: int) -> Comparison:
    task = task_of(where.home, peer.loader_workers, peer.cpus)
    packages = installed(where, peer.requirements) if peer.requirements else None

    def trials_per_hour(run: Callable[[], object]) -> float:
        return 3600 * len(task.trials) / seconds(run)

    def run(task: Task) -> object:
        return run_peer(where, peer.module, task, packages)

    # Its files and tables are there, as ours are, when it is first measured.
    run(replace(task, trials=(replace(task.trial, epochs=1),)))
    figures = interleaved(
        lambda: trials_per_hour(lambda: run_tuner(where)),
        lambda: trials_per_hour(lambda: run(task)),
        pairs if peer.goal else min(pairs, FEWER_PAIRS),
    )
    return Comparison("Whole search", peer.title, "trials/h", *figures, peer.goal)


def main() -> None:
    """Measure at a size of one's own, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--trials", type=int, help="of each of the two arms; six confirm runs come on top")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10, instead of digits")
    parser.add_argument("--peers", nargs="+", metavar="MODULE", help="only these of benchmarks.peers")
    asked = parser.parse_args()
    search = QUICKSTART if asked.data is None else cifar10_small(asked.data)
    search = search._replace(trials=asked.trials or search.trials, epochs=asked.epochs or search.epochs)
    peers = [peer for peer in PEERS if asked.peers is None or peer.module in asked.peers]
    print(json.dumps(asdict(measure(asked.pairs, search, peers)), indent=2))


if __name__ == "__main__":
    main()
