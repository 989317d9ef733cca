"""A leaderboard as a table: the cells, and the table as text and as HTML."""

from collections.abc import Sequence
from html import escape
from io import StringIO
from typing import NamedTuple

from tuner.monitor.table import drawn, wide
from tuner.report.wording import claim_text, test_text, trials_text, val_text
from tuner.verdict.leaderboard import Leaderboard, verdict_text
from tuner.verdict.numbers import judge_column


class BoardTable(NamedTuple):
    """A leaderboard as text.

    Attributes:
        title: one line about the job.
        columns: the headings; numbers, which are aligned on the right, have a heading that ends in ``>``.
        rows: one row of cells per arm.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def board_table(board: Leaderboard) -> BoardTable:
    """The cells of a leaderboard."""
    columns = (
        "arm",
        f"{board.metric}>",
        f"{judge_column(board.measured)}>",
        "trials",
        "epochs>",
        "seconds>",
        "verdict",
    )
    rows = [
        (
            row.arm,
            val_text(row),
            test_text(row),
            trials_text(row),
            str(row.epochs),
            f"{row.seconds:.0f}",
            verdict_text(row, board),
        )
        for row in board.rows
    ]
    return BoardTable(f"{board.job}: {board.state}, {claim_text(board)}", columns, rows)


def as_text(table: BoardTable) -> str:
    """The table as plain text, for ``repr``."""
    from rich.console import Console

    text = StringIO()
    drawing = drawn(table.columns, table.rows, table.title)
    Console(file=text, width=wide(), force_terminal=False).print(drawing)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip()


def as_html(table: BoardTable, notes: tuple[str, ...] = ()) -> str:
    """The table as HTML, for a notebook; ``notes`` follow as a list."""
    aligned = ["right" if column.endswith(">") else "left" for column in table.columns]

    def line(tag: str, cells: tuple[str, ...]) -> str:
        parts = zip(aligned, cells, strict=True)
        inner = "".join(f"<{tag} style='text-align:{side}'>{escape(cell)}</{tag}>" for side, cell in parts)
        return f"<tr>{inner}</tr>"

    head = line("th", tuple(column.removesuffix(">") for column in table.columns))
    body = "".join(line("td", row) for row in table.rows)
    listed = f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""
    caption = f'<caption style="text-align:left">{escape(table.title)}</caption>'
    return f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table>{listed}"
