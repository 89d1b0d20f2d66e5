"""Feature columns of events that were decoded one by one: each event's features are a mapping.

The slow and obviously right way: the fast readers of JSON and of tables must give the same columns.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from online_models.contracts.columns import Column
from online_models.contracts.ids import hash64

Features = Mapping[str, object]


class MappingColumns:
    """`FeatureColumns` of n events given as mappings from feature name to number, text or list of texts.

    A boolean, null or mapping is no value. Words of one event are counted once each, in the order they first come.

    >>> columns = MappingColumns([{"genres": ["War", "Drama"]}, None, {"genres": 3}])
    >>> genres = columns.column("genres")
    >>> genres.word_rows.tolist(), genres.text(1), genres.number_rows.tolist()
    ([0, 0], 'Drama', [2])
    """

    def __init__(self, features: Sequence[Features | None]) -> None:
        self._features = features

    def names(self) -> tuple[str, ...]:
        """All names that occur, in order of appearance."""
        return tuple(dict.fromkeys(name for each in self._features if each for name in each))

    def column(self, name: str) -> Column:
        """One feature's numbers and words."""
        number_rows: list[int] = []
        numbers: list[float] = []
        word_rows: list[int] = []
        words: list[str] = []
        for row, each in enumerate(self._features):
            given = each.get(name) if each else None
            if given is None:
                continue
            if given.__class__ is float or _is_number(given):
                number_rows.append(row)
                numbers.append(_float(given))
            else:
                found = _words(given)
                words += found
                word_rows += [row] * len(found)
        return Column(
            np.array(number_rows, np.int32),
            np.array(numbers, np.float64),
            np.array(word_rows, np.int32),
            np.fromiter(map(_HASHES.__getitem__, words), np.uint64, len(words)),
            words.__getitem__,
        )

    def take(self, rows: npt.NDArray[np.bool_]) -> "MappingColumns":
        """The features of the events where `rows` (n,) is true."""
        return MappingColumns([each for each, keep in zip(self._features, rows.tolist(), strict=True) if keep])


def _is_number(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)


def _float(given: object) -> float:
    assert isinstance(given, int | float)
    try:
        return float(given)
    except OverflowError:  # an int beyond 1e308
        return np.inf if given > 0 else -np.inf


def _words(given: object) -> list[str]:
    if isinstance(given, str):
        return [given]
    return (
        list(dict.fromkeys(word for word in given if isinstance(word, str))) if isinstance(given, list | tuple) else []
    )


class _Hashes(dict[str, int]):
    """Word -> its 64-bit hash, each word hashed once while there is room."""

    def __missing__(self, word: str) -> int:
        try:
            hashed = hash64(word)
        except UnicodeEncodeError:  # a lone surrogate, which JSON can smuggle in
            hashed = hash64(word.encode(errors="replace").decode())
        if len(self) < 65_536:
            self[word] = hashed
        return hashed


_HASHES = _Hashes()
