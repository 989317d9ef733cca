"""Writes ``docs/results/aa/aa.md`` from the results of the benchmarks ``aa`` and ``aa-real``.

    python -m benchmarks.aa_page

The tables come only from the JSON files.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.__main__ import BENCHMARKS
from benchmarks.aa import GAINS, GROUPS, NARROW, VARIANTS, WIDE, Share
from benchmarks.aa_jobs import OWN_SHARE, RULES
from benchmarks.page import conditions

RESULT = BENCHMARKS["aa"].folder / "aa.json"
REAL = BENCHMARKS["aa-real"].folder / "aa-real.json"

Kept = Mapping[str, Any]
"""The JSON of the benchmark."""


def main() -> None:
    """Write the page and print its path."""
    file = RESULT.with_suffix(".md")
    file.write_text(page(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")
    print(file)


def page(kept: Kept) -> str:
    """The text of the page."""
    details, versions = kept["details"], kept["conditions"]["versions"]
    alone, four = (details[f"A/A, variants: {variants}"] for variants in (1, VARIANTS))
    looks = [rule for rule in RULES if RULES[rule].at]
    parts = [
        "# How often an arm beats itself",
        _wrapped(kept["how"]),
        _wrapped(HOW),
        _wrapped(
            f"- Conditions: {conditions(kept)}; numpy {versions['numpy']}, scipy {versions['scipy']}.", indent="  "
        )
        + "\n- Seeds: search s of a table has seed s, from 0 to 999. The jobs have seed 0."
        + "\n- `python -m benchmarks.tables.bank` makes the banks. `python -m benchmarks.aa_page` writes this page.",
        "## The tables",
        _table(["table", *next(iter(details["tables"].values()))], _described(details["tables"])),
        f'## False "beats" among {VARIANTS} variants',
        _wrapped(
            "Jobs in percent where any variant beats the baseline, and the 95 % upper bound. The margin is"
            f" {NARROW:g} sd."
        ),
        _table(["table", *RULES], _by_table(four, "false")),
        '## False "beats" of one variant',
        _table(["table", *RULES], _by_table(alone, "false")),
        "## Placebo warnings and false ties",
        _wrapped(
            "The placebo is tested alone at 5 %, two-sided. A false tie is a tie of a variant whose true difference is"
            f" the margin, {WIDE:g} sd. Ties are tested at 5 % per variant with looks, and at 2.5 % without. Percent of"
            " jobs, and the 95 % upper bound."
        ),
        _table(["", "rule", "placebo warns", "false tie"], _errors(details, looks)),
        "## Power and cost",
        _wrapped(
            f"One of {VARIANTS} variants has the gain. Epochs are the mean per job, over all arms, until the rule"
            " stops. A group of tables has the mean over its tables. Settled is the share of all variants that beat,"
            " lose or tie. False is the share of jobs where a variant without a gain beats the baseline."
        ),
        _wrapped(
            f"The looks save more if the margin is narrow: with {NARROW:g} sd, an arm without a gain can hardly tie, so"
            f" it soon ends as futile. With {WIDE:g} sd it may still tie, so it is searched longer."
        ),
    ]
    for margin in (NARROW, WIDE):
        for group in GROUPS:
            title = f"### {group[0].upper()}{group[1:]}, margin {margin:g} sd"
            parts += [title, _table(COLUMNS, _costs(details, group, margin))]
    parts += _real_jobs()
    parts += ["## Limits", "\n".join(_wrapped(limit, indent="  ") for limit in LIMITS)]
    return "\n\n".join(parts) + "\n"


HOW = (
    "The rules of *looks* and *searches* judge a method: the unit is a search, and the winner of each search has one"
    " confirm run with a fresh seed. The rules of *seeds* judge a setting, as the verdict did before: each arm has one"
    " search, and its winner has several confirm runs. The setting that wins may really be better. The claim is counted"
    " as false because the arm is not better, and the verdict named the arm. In *rounds*, all arms are confirmed again"
    " with fresh seeds until every variant is settled, at most five times, and the last round counts. The true value"
    " of a winner is its recorded final value. Our tables have validation accuracies in points. TaskSet has validation"
    " losses, and a point is 0.01 nats. The noise of a fresh seed is normal. On our tables, its sd comes from the"
    " confirm runs that `docs/results/quickstart.md` and `docs/results/cifar10-small.md` publish. TaskSet has no"
    f" repeated seeds, so its sd is set to {OWN_SHARE:g} of the winners' sd. A seed also acts on all arms alike. That"
    " effect cancels in the differences, so it is not drawn."
)
LIMITS = (
    "- The surfaces are estimates. Our tables have 64 settings each, so few different settings win. A recorded value"
    " contains the noise of its one seed. This noise counts as luck of the search.",
    "- The sd of a fresh seed on TaskSet is an assumption.",
    "- TaskSet's space is wide, and the first trial is its middle. With a known-good first trial, many searches would"
    " have the same winner.",
    "- Searches and seeds never fail here.",
)
COLUMNS = ["rule", "gain, sd", "epochs", "of 12 searches", "settled, %", "power, %", "false, %"]


def _described(tables: Kept) -> Iterator[list[str]]:
    for name, values in tables.items():
        yield [name, *(f"{value:g}" for value in values.values())]


def _by_table(found: Kept, event: str) -> Iterator[list[str]]:
    for name in next(iter(found.values())):
        yield [f"**{name}**" if name in GROUPS else name, *(_share(found[rule][name], event) for rule in RULES)]


def _errors(details: Kept, looks: Sequence[str]) -> Iterator[list[str]]:
    alike, at_margin = details[f"A/A, variants: {VARIANTS}"], details[f"gain {WIDE:g} sd, margin {WIDE:g} sd"]
    for group in GROUPS:
        for rule in RULES:
            warns = _share(alike[rule][group], "warns") if rule in looks else ""
            yield [group, rule, warns, _share(at_margin[rule][group], "ties")]


def _real_jobs() -> list[str]:
    """The section on jobs that were really trained."""
    kept = json.loads(REAL.read_text(encoding="utf-8"))
    jobs, false = kept["details"]["jobs"], kept["details"]["false verdicts"]
    rows = (
        [
            f"{job['seed']}",
            f"{job['difference']:+z.2f} ± {(job['high'] - job['low']) / 2:.2f}",
            f"{job['searches']}",
            job["outcome"],
            f"{job['epochs']}",
            f"{job['seconds']:.0f}",
        ]
        for job in jobs
    )
    return [
        "## Real jobs",
        _wrapped(kept["how"]),
        _wrapped(
            f"{false} of the {len(jobs)} jobs gave a false verdict: beats or loses. The rule allows 5 %, which is one"
            f" in {len(jobs)}. So few jobs show no rate. They show that real trainings pass the whole path."
        ),
        _wrapped(f"- Conditions: {conditions(kept)}. Other jobs ran beside the first half.", indent="  "),
        _table(["seed", "difference, points", "searches", "verdict", "epochs of the searches", "seconds"], rows),
    ]


def _costs(details: Kept, group: str, margin: float) -> Iterator[list[str]]:
    for gain in GAINS:
        found = details[f"gain {gain:g} sd, margin {margin:g} sd"]
        whole = found["12 searches"][group]["epochs"]
        for rule in RULES:
            row = found[rule][group]
            power = f"{_cases(row, 'beats').percent:.1f}" if gain else ""
            yield [
                rule,
                f"{gain:g}",
                f"{row['epochs']:,.0f}",
                f"{100 * row['epochs'] / whole:.0f} %",
                f"{row['settled']:.1f}",
                power,
                f"{_cases(row, 'false').percent:.1f}",
            ]


def _share(row: Kept, event: str) -> str:
    share = _cases(row, event)
    return f"{share.percent:.1f} (≤ {share.upper:.1f})"


def _cases(row: Kept, event: str) -> Share:
    return Share(row[event], row["jobs"])


def _table(head: Sequence[str], rows: Iterator[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 119, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    main()
