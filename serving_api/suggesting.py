"""What a language model has said beforehand of a user's candidates, or of new items to users like them, as ranking takes it."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from online_models.errors import StoreError
from online_models.language_scores import LanguageModel, decode_scores
from online_models.ports import UserState
from serving_api.reranking.candidates import F32
from serving_api.retrieval import Rows, VersionView


@dataclass(frozen=True, slots=True)
class Suggestions:
    """What the language model says of some items, each once.

    rows : int64 (n,), of the view; gains : float32 (n,), what it adds to their scores
    logits : float32 (n,), calibrated log-odds of each being taken when it is shown
    """

    rows: Rows
    gains: F32
    logits: F32

    def raised(self, items: int) -> F32:
        """What is added to the score of each of so many items, float32 (items,)."""
        added = np.zeros(items, np.float32)
        added[self.rows] = self.gains
        return added

    def logits_by_row(self) -> dict[int, float]:
        """Row -> logit."""
        return dict(zip(self.rows.tolist(), self.logits.tolist(), strict=True))


def suggestions_of(view: VersionView, user: UserState, vector: F32) -> Suggestions | None:
    """What the language model of a view says to a user of long vector (k,): of new items as to users like them, and of whatever
    it has scored for the user alone as to the user; None where it has said nothing. Raises StoreError, see `readable`."""
    model = view.loaded.language_model
    if model is None:
        return None
    own = [] if user.language is None else [decode_scores(user.language)]
    of_segment = [] if view.segments is None or not vector.any() else [view.segments.of(vector)]
    said = [_suggested(view, scored, model) for scored in (*of_segment, *own) if len(scored)]
    if not said:
        return None
    rows, gains, logits = (np.concatenate(column) for column in zip(*said, strict=True))
    # of two scores of an item the later, which is the user's own
    _, last = np.unique(rows[::-1], return_index=True)
    kept = len(rows) - 1 - last
    return Suggestions(rows[kept], gains[kept], logits[kept])


def readable(user: UserState) -> tuple[UserState, StoreError | None]:
    """What was read of a user, less a language model's scores where they are torn, and why: the blend decides without them."""
    if user.language is not None:
        try:
            decode_scores(user.language)
        except StoreError as error:
            return replace(user, language=None), error
    return user, None


def _suggested(view: VersionView, scored: npt.NDArray[np.void], model: LanguageModel) -> tuple[Rows, F32, F32]:
    """Rows of the known items, their gains and their logits."""
    rows, scores = view.rows(scored["item"]), scored["score"]
    gains = model.gains(scores)
    logits = np.float32(model.slope) * scores + np.float32(model.intercept)
    known = rows >= 0
    return rows[known], gains[known], logits[known]
