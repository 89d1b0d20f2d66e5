"""Tables of text for a terminal: numbers to the right, words to the left."""

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of aligned columns under a header; the first column and every one with a letter in each cell are words.

    >>> print(text_table(["name", "n", "verdict"], [["rating", "12", "drift"], ["hour", "1,204", "-"]]))
    name        n  verdict
    rating     12  drift
    hour    1,204  -
    """
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    left = [place == 0 or _are_words(column[1:]) for place, column in enumerate(columns)]
    lines = [
        "  ".join(
            cell.ljust(width) if words else cell.rjust(width)
            for cell, width, words in zip(cells, widths, left, strict=True)
        ).rstrip()
        for cells in (header, *rows)
    ]
    return "\n".join(lines)


def _are_words(cells: Sequence[str]) -> bool:
    return any(cell[:1].isalpha() for cell in cells)
