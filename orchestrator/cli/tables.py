"""Tables: columns of text, aligned, cut to the terminal's width where they can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.cli.terminal import Terminal, plain

_GAP = "   "
_SMALLEST = 6


class Cell(NamedTuple):
    """One field of a table; the style is put on after aligning."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """One column.

    :param flexible: may be cut when the terminal is narrow.
    :param right: aligned to the right, as numbers are.
    """

    title: str
    flexible: bool = False
    right: bool = False


def render(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], terminal: Terminal, *, cut: bool = True
) -> list[str]:
    """The lines of a table, its head first.

    :param cut: shorten flexible columns so that lines fit the terminal.
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    cells = [[Cell(plain(cell.text), cell.style) for cell in row] for row in cells]
    widths = [
        max([len(column.title), *(len(row[index].text) for row in cells)])
        for index, column in enumerate(columns)
    ]
    if cut and terminal.width is not None:
        _shrink(widths, columns, terminal.width)
    head = [Cell(column.title, "bold") for column in columns]
    return [_line(row, columns, widths, terminal) for row in [head, *cells]]


def _shrink(widths: list[int], columns: Sequence[Column], room: int) -> None:
    """Take what is too much from the flexible columns, the last one first."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - room
    for index in reversed(range(len(widths))):
        if excess > 0 and columns[index].flexible:
            given = min(excess, max(widths[index] - max(_SMALLEST, len(columns[index].title)), 0))
            widths[index] -= given
            excess -= given


def _line(row: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int], terminal: Terminal) -> str:
    parts = []
    for index, (cell, column, width) in enumerate(zip(row, columns, widths, strict=True)):
        text = cell.text if len(cell.text) <= width else cell.text[: width - 1] + "…"
        shown = terminal.style(text, cell.style)
        padding = " " * (width - len(text))
        if column.right:
            shown = padding + shown
        elif index < len(columns) - 1:
            shown += padding
        parts.append(shown)
    return _GAP.join(parts).rstrip()
