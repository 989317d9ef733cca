"""A table of texts, as the terminal and ``repr`` show it."""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

WIDEST = 200


def drawn(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> "Table":
    """The table. A column whose name ends with ``>`` is right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.removesuffix(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def wide() -> int:
    """The width of a table outside of a terminal, which has none: lines for scripts and logs are not folded."""
    return int(os.environ.get("COLUMNS") or WIDEST)
