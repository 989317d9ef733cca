"""What the runs came to, as a table: each run held against the published failure, and against its case's other runs.

python -m studies.article.summary     writes docs/results/article/small.md, and so on for each size
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

from studies.article.cases import CASES, FINDINGS, SIZES
from studies.article.runs import PUBLISHED, RESULTS, Run, all_runs, outcome, path_of, read

LOGS = Path(__file__).parent / "logs"
MOST_SEEDS = 100

Rows = list[dict[str, float]]


def found(folder: Path) -> dict[Run, Rows]:
    """The runs that are there, in the study's order."""
    runs = all_runs(MOST_SEEDS)
    return {run: read(path_of(run, folder)) for run in runs if path_of(run, folder).exists()}


def log_of(case: str) -> Rows:
    """The published log of a case."""
    return read(LOGS / f"{CASES[case].log}.csv")


def holds(run: Run, runs: Mapping[Run, Rows]) -> bool | None:
    """Whether the run shows the published log's failure; None where there is no baseline of its seed to ask."""
    baseline = runs.get(Run("baseline", PUBLISHED, run.seed))
    if baseline is None or run.case not in FINDINGS:
        return None
    return FINDINGS[run.case].holds(outcome(runs[run]), outcome(baseline))


def table(runs: Mapping[Run, Rows]) -> Iterator[str]:
    """Markdown: a row a run, the published log's first in each case."""
    yield "| case | run | train loss | train % | test loss | test % | best test % | weights grew | as the log |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for case in CASES:
        yield _row(case, "the article's log", log_of(case), "", "")
        for run, rows in runs.items():
            if run.case == case:
                growth = f"× {rows[-1]['weight_norm'] / rows[0]['weight_norm']:.2f}"
                said = {True: "yes", False: "no", None: ""}[holds(run, runs)]
                yield _row(case, f"{run.setting}, seed {run.seed}", rows, growth, said)


def document(name: str, runs: Mapping[Run, Rows]) -> str:
    """The whole file."""
    size = SIZES[name]
    asked = [f"- {case}: {finding.words}" for case, finding in FINDINGS.items()]
    missing = sum(1 for run in all_runs(1) if run not in runs)
    return "\n".join(
        [
            f"# The article's cases, {name} size",
            "",
            "Written by `python -m studies.article.summary` from the CSV files beside it.",
            "",
            f"Width {size.width:g}, {size.epochs} epochs of {size.plan.steps_per_epoch} updates of {size.batch_size} "
            f"images, {size.test_images:,} test images. "
            f"Learning rates × {size.lr_factor:g}. Runs of seed 0 that were not made: {missing}.",
            "",
            '"As the log" is, fixed before any run:',
            "",
            *asked,
            "",
            *table(runs),
            "",
        ]
    )


def main() -> None:
    """Write a document for each size of which there are runs."""
    parser = argparse.ArgumentParser(prog="python -m studies.article.summary", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    for name in SIZES:
        runs = found(args.results / name)
        if runs:
            (args.results / f"{name}.md").write_text(document(name, runs))


def _row(case: str, what: str, rows: Rows, growth: str, said: str) -> str:
    last, best = rows[-1], max(row["test_acc"] for row in rows)
    numbers = (
        f"{last['train_loss']:.4f} | {100 * last['train_acc']:.2f} | {last['test_loss']:.4f} | "
        f"{100 * last['test_acc']:.2f} | {100 * best:.2f}"
    )
    return f"| {case} | {what} | {numbers} | {growth} | {said} |"


if __name__ == "__main__":
    main()
