"""Trains the missing runs of the study, one after another. After a kill, a new start trains the runs still missing.

python -m studies.article --data DIR               all runs, at a size for a CPU
python -m studies.article --data DIR --size full   all runs at the published size, for a GPU
python -m studies.article --list                   list the missing runs by name
"""

import argparse
import os
from pathlib import Path

import torch

from studies.article.cases import CASES, SIZES, config_of
from studies.article.runs import RESULTS, all_runs, path_of, train, write
from trainables.data.cache import load
from trainables.errors import TrainableError
from trainables.training import process


def main() -> None:
    """Read the arguments, train the missing runs, and write their files."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.article",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default=os.environ.get("TUNER_DATA"), help="folder that holds CIFAR-10 [TUNER_DATA]")
    parser.add_argument("--size", choices=SIZES, default="small", help="full is the article's size [small]")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds for the published and the corrected runs")
    parser.add_argument("--limit", type=int, help="maximum number of runs to train")
    parser.add_argument("--list", action="store_true", help="only list the missing runs")
    parser.add_argument("--only", default="", help="only runs whose name begins with this, such as case1.published")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    folder = args.results / args.size
    missing = [
        run for run in all_runs(args.seeds) if str(run).startswith(args.only) and not path_of(run, folder).exists()
    ]
    if args.list:
        print(*missing, sep="\n")
        return
    size = SIZES[args.size]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    process.set_up(threads=1)
    request = config_of(CASES["baseline"], frozenset(), size, 0, args.data).data
    try:
        splits = load(request, Path(os.environ.get("TUNER_CACHE") or "tuner-runs/cache"))
    except TrainableError as error:
        parser.error(str(error))
    for run in missing[: args.limit]:
        rows = train(run, size, splits, args.data, device)
        write(rows, path_of(run, folder))
        print(f"{run}: {_said(rows)}", flush=True)


def _said(rows: list[dict[str, float]]) -> str:
    last, seconds = rows[-1], sum(row["seconds"] for row in rows)
    return (
        f"train {last['train_loss']:.4f} {last['train_acc']:.3f}, test {last['test_loss']:.4f} {last['test_acc']:.3f}, "
        f"{seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
