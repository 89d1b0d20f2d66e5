"""Rows of text as aligned columns, for commands that tell a terminal what they know."""

from collections.abc import Sequence


def text_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line a row, every column to the left.

    >>> text_columns([("stage", "users"), ("0", "1,204")])
    ['stage  users', '0      1,204']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
