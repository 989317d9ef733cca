"""The results of the runs as a table. It compares each run with the published failure of its case.

python -m studies.article.summary     write docs/results/article/small.md, and one such file for each size
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
    """The runs whose files exist, in the order of the study."""
    runs = all_runs(MOST_SEEDS)
    return {run: read(path_of(run, folder)) for run in runs if path_of(run, folder).exists()}


def log_of(case: str) -> Rows:
    """The published log of a case."""
    return read(LOGS / f"{CASES[case].log}.csv")


def holds(run: Run, runs: Mapping[Run, Rows]) -> bool | None:
    """Whether the run shows the failure of the published log.

    None for a run of the baseline, and if the baseline has no run with this seed.
    """
    baseline = runs.get(Run("baseline", PUBLISHED, run.seed))
    if baseline is None or run.case not in FINDINGS:
        return None
    return FINDINGS[run.case].holds(outcome(runs[run]), outcome(baseline))


def table(runs: Mapping[Run, Rows]) -> Iterator[str]:
    """A Markdown table with one row per run. The published log is the first row of each case."""
    yield "| case | run | train loss | train % | test loss | test % | best test % | weight growth | as the log |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for case in CASES:
        yield _row(case, "the article's log", log_of(case), "", "")
        for run, rows in runs.items():
            if run.case == case:
                growth = f"× {rows[-1]['weight_norm'] / rows[0]['weight_norm']:.2f}"
                said = {True: "yes", False: "no", None: ""}[holds(run, runs)]
                yield _row(case, f"{run.setting}, seed {run.seed}", rows, growth, said)


def document(name: str, runs: Mapping[Run, Rows]) -> str:
    """The text of the whole file."""
    size = SIZES[name]
    asked = [f"- {case}: {finding.words}" for case, finding in FINDINGS.items()]
    missing = sum(1 for run in all_runs(1) if run not in runs)
    return "\n".join(
        [
            f"# The article's cases, {name} size",
            "",
            f"`python -m studies.article.summary` writes this file from the CSV files in the folder [{name}]({name}).",
            "",
            f"The net has the width {size.width:g}. A run has {size.epochs} epochs of {size.plan.steps_per_epoch} "
            f"updates of {size.batch_size} images, and {size.test_images:,} test images.",
            f"Learning rates are multiplied by {size.lr_factor:g}. Missing runs of seed 0: {missing}.",
            "",
            'The column "as the log" gives the result of these tests, which were fixed before the first run:',
            "",
            *asked,
            "",
            *table(runs),
            "",
        ]
    )


def main() -> None:
    """Write a document for each size that has runs."""
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
