"""What a language model reads of a history and its candidates, as token ids.

- Pieces are tokenized one by one and put together as ids: however many candidates share a row, each piece is the same.
- The tiny base reads words of the catalogue, and a marker for each part: `<bos> (<h> text)* | <t> text <ans>`.
- A real base reads an instruction in the manner of TALLRec; its "Yes" and "No" are looked up in its own tokenizer, for their
  numbers differ between models.

References
----------
Bao et al.: TALLRec: an effective and efficient tuning framework to align large language model with recommendation. RecSys 2023.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol, Self

import msgspec

from online_models.contracts.events import Item
from online_models.errors import ArtifactError

BOS, HISTORY, CANDIDATE, ANSWER, NO, YES, UNKNOWN = MARKERS = ("<bos>", "<h>", "<t>", "<ans>", "<no>", "<yes>", "<unk>")

MAX_WORDS: Final = 12
MAX_TOKENS: Final = 32
"""Longer texts of an item are cut: what makes titles long, editions and sets, tells little of taste."""

INSTRUCTION: Final = (
    "Below is a list of items that a user liked, oldest first. Would the user like the candidate? Answer Yes or No.\n"
)

_WORD: Final = re.compile(r"[^\W_]+")


class Prompt(Protocol):
    """Pieces of a prompt: `opening` (history pieces) `bridge` (candidate piece); the answer is read at the end of the last.

    yes, no : token ids, whose logits at that place are compared
    """

    yes: int
    no: int

    def opening(self) -> list[int]:
        """What every prompt begins with."""

    def told(self, text: str) -> list[int]:
        """An item of the history."""

    def bridge(self) -> list[int]:
        """Between the history and the candidate."""

    def asked(self, text: str) -> list[int]:
        """A candidate, up to the place of the answer."""


def item_text(item: Item) -> str:
    """Title and categories."""
    return " ".join([item.title, *item.categories])


def words_of(text: str) -> list[str]:
    """Lower-case words, at most `MAX_WORDS`.

    >>> words_of("Heat (1995) Crime|Thriller")
    ['heat', '1995', 'crime', 'thriller']
    """
    return _WORD.findall(text.lower())[:MAX_WORDS]


class Words:
    """The vocabulary of a tiny base: markers, then the words of a catalogue in sorted order.

    >>> words = Words.of_texts(["Heat crime", "Up"])
    >>> len(words), words.told("up up there") == [1, 9, 9, words.unknown]
    (10, True)
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._ids = {word: number for number, word in enumerate([*MARKERS, *self.words])}
        if len(self._ids) != len(MARKERS) + len(self.words):
            raise ArtifactError(f"vocabulary: expected distinct words, got {len(self.words)} with repeats")
        self.yes, self.no, self.unknown = (self._ids[marker] for marker in (YES, NO, UNKNOWN))

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> Self:
        """All words of a catalogue."""
        return cls(sorted({word for text in texts for word in words_of(text)}))

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """From `encode`. Raises ArtifactError when it is something else."""
        try:
            return cls(msgspec.json.decode(raw, type=list[str]))
        except msgspec.DecodeError as error:
            raise ArtifactError(f"vocabulary: expected a JSON list of words, got {raw[:40]!r}") from error

    def encode(self) -> bytes:
        """A JSON list of the words."""
        return msgspec.json.encode(self.words)

    def __len__(self) -> int:
        return len(self._ids)

    def opening(self) -> list[int]:
        """See `Prompt`."""
        return [self._ids[BOS]]

    def told(self, text: str) -> list[int]:
        """See `Prompt`."""
        return [self._ids[HISTORY], *self._words(text)]

    def bridge(self) -> list[int]:
        """See `Prompt`."""
        return []

    def asked(self, text: str) -> list[int]:
        """See `Prompt`."""
        return [self._ids[CANDIDATE], *self._words(text), self._ids[ANSWER]]

    def _words(self, text: str) -> list[int]:
        return [self._ids.get(word, self.unknown) for word in words_of(text)]


class Instruction:
    """The prompt of a real base: `tokenizer` is that of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.yes, self.no = self._single("Yes"), self._single("No")

    def opening(self) -> list[int]:
        """See `Prompt`."""
        start = self._tokenizer.bos_token_id
        return [*([] if start is None else [start]), *self._ids(INSTRUCTION)]

    def told(self, text: str) -> list[int]:
        """See `Prompt`."""
        return [*self._ids("- "), *self._ids(text)[:MAX_TOKENS], *self._ids("\n")]

    def bridge(self) -> list[int]:
        """See `Prompt`."""
        return self._ids("Candidate: ")

    def asked(self, text: str) -> list[int]:
        """See `Prompt`."""
        return [*self._ids(text)[:MAX_TOKENS], *self._ids("\nAnswer:\n")]

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return found

    def _single(self, word: str) -> int:
        match self._ids(word):
            case [token] if token != self._tokenizer.unk_token_id:
                return token
            case found:
                raise ArtifactError(f"tokenizer: expected {word!r} as one token, got {found}")
