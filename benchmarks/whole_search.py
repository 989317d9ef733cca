"""A whole search, from the command to its end, with ``tuner`` and with other tools.

Ours is ``tuner run`` with tracking, confirm runs and report. Each peer then trains all trials that ours trained,
confirm runs included: the same settings, epochs, images and batches. It does so in its own program with its own way of
tracking. ``--data`` trains on 6,000 images of CIFAR-10 in a folder at 1/8 width, instead of the size of the quickstart:

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
"""The values of the Ray Tune tutorials: processes per ``DataLoader``, and CPUs per trial."""
FEWER_PAIRS = 2
"""Number of pairs for comparisons without a goal."""


class Peer(NamedTuple):
    """A program of ``benchmarks.peers``, its title, and its settings."""

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
        "Ray Tune as in its PyTorch tutorial: 8 loader processes and 2 CPUs per trial",
        TUTORIAL_WORKERS,
        TUTORIAL_CPUS,
        Goal(5, "least"),
    ),
    Peer("ray_tutorial", "the same without loader processes, 1 CPU per trial", 0, 1),
    Peer("ray_best", "Ray Tune, class API, actors reused, our training loop, no tracking", 0, 1),
    Peer("optuna_processes", "Optuna, one process per CPU, journal file, MLflow", 0, 1),
    Peer("syne_tune_local", "Syne Tune, local backend, no tracking", 0, 1, requirements=REQUIREMENTS),
)


class Search(NamedTuple):
    """The size of a search: its data as in a spec, and its training. Each of the two arms has ``trials`` trials."""

    data: str
    width: float
    trials: int
    epochs: int
    batch_size: int

    def spec(self) -> str:
        """The text of the spec for ``tuner``."""
        return SPEC.format(**self._asdict())


QUICKSTART = Search("{name: digits}", width=0.0625, trials=3, epochs=12, batch_size=50)


def cifar10_small(folder: Path) -> Search:
    """12 epochs on 6,000 images of CIFAR-10 in a folder."""
    path = json.dumps(str(folder.absolute()))
    data = f"{{name: cifar10, path: {path}, train_images: 6000, val_images: 1500, augment: flip_crop}}"
    return Search(data, width=0.125, trials=3, epochs=12, batch_size=100)


def measure(pairs: int, search: Search = QUICKSTART, peers: Sequence[Peer] = PEERS) -> Result:
    """Compare ours with each peer."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, place(Path(name, "place"), search.spec()) as where:
        run_tuner(where)
        trained = len(task_of(where.home, 0, 1).trials)
        compared = tuple(_compared(where, peer, pairs) for peer in peers)
    how = (
        f"{trained} trials of {search.epochs} epochs on {search.data}, confirm runs included, with width"
        f" {search.width:g} and batches of {search.batch_size}, all trained by Adam with L2. The time is from the"
        " command to its end. Ours also writes a report in this time."
    )
    return Result(how, compared)


def _compared(where: Place, peer: Peer, pairs: int) -> Comparison:
    task = task_of(where.home, peer.loader_workers, peer.cpus)
    packages = installed(where, peer.requirements) if peer.requirements else None

    def trials_per_hour(run: Callable[[], object]) -> float:
        return 3600 * len(task.trials) / seconds(run)

    def run(task: Task) -> object:
        return run_peer(where, peer.module, task, packages)

    # An uncounted run of one trial creates the files and tables of the peer, as ours already exist.
    run(replace(task, trials=(replace(task.trial, epochs=1),)))
    figures = interleaved(
        lambda: trials_per_hour(lambda: run_tuner(where)),
        lambda: trials_per_hour(lambda: run(task)),
        pairs if peer.goal else min(pairs, FEWER_PAIRS),
    )
    return Comparison("Whole search", peer.title, "trials/h", *figures, peer.goal)


def main() -> None:
    """Measure at the size of the command line, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--trials", type=int, help="trials of each of the two arms, without the six confirm runs")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--data", type=Path, help="folder that holds CIFAR-10, to use it instead of digits")
    parser.add_argument("--peers", nargs="+", metavar="MODULE", help="run only these modules of benchmarks.peers")
    asked = parser.parse_args()
    search = QUICKSTART if asked.data is None else cifar10_small(asked.data)
    search = search._replace(trials=asked.trials or search.trials, epochs=asked.epochs or search.epochs)
    peers = [peer for peer in PEERS if asked.peers is None or peer.module in asked.peers]
    print(json.dumps(asdict(measure(asked.pairs, search, peers)), indent=2))


if __name__ == "__main__":
    main()
