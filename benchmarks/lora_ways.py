"""The ways to learn from new choices that the benchmark `lora` compares, and which full fine-tuning each is like."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from retrain_workers.lora.adapters import ALL_LINEAR, AdapterShape
from retrain_workers.lora.fitting import Recipe
from retrain_workers.lora.tiny_base import MEDIUM

LAYERS: Final = MEDIUM.layers


@dataclass(frozen=True, slots=True)
class Way:
    """One way to learn from new choices: full fine-tuning where there is no recipe; share : of the choices, the newest

    words : begin with vectors of the new words
    """

    recipe: Recipe | None
    epochs: int = 2
    groups_per_batch: int = 24
    share: float = 1.0
    words: bool = False

    @property
    def shape(self) -> AdapterShape | None:
        return self.recipe.shape if self.recipe else None

    def kept(self, choices: int) -> int:
        """Batches whose hidden states are kept."""
        frozen = self.shape is not None and self.shape.first_layer > 0 and self.epochs > 1
        return -(-round(self.share * choices) // self.groups_per_batch) if frozen else 0

    def is_like(self, other: "Way") -> bool:
        """Whether they differ in nothing but which weights are trained."""
        ours, theirs = ((each.epochs, each.groups_per_batch, each.share, each.words) for each in (self, other))
        return ours == theirs


def low_rank(
    rank: int = 16,
    top: int = LAYERS,
    *,
    epochs: int = 2,
    rate: float = 5e-3,
    up: float = 1.0,
    batch: int = 24,
    dropout: float = 0.0,
    linear: bool = False,
    words: bool = True,
    share: float = 1.0,
) -> Way:
    """Adapters in the top layers, of q_proj and v_proj or of all linear maps; words : begin with vectors of the new ones."""
    targets = ALL_LINEAR if linear else AdapterShape().targets
    shape = AdapterShape(rank, 2.0 * rank, dropout, LAYERS - top, targets)
    return Way(Recipe(shape, epochs, rate, up, batch, placed_words=words), epochs, batch, share, words)


FULL: Final = "full, 2 epochs"
FULL_PLACED: Final = "full, 2 epochs, placed words"
ALL_16: Final = "all_layers r16"
WAYS: Final[Mapping[str, Way]] = {
    FULL: Way(None),
    "full, 1 epoch": Way(None, epochs=1),
    "all_layers r8": low_rank(8, dropout=0.05, words=False),
    ALL_16: low_rank(dropout=0.05, words=False),
    "all_layers r32": low_rank(32, dropout=0.05, words=False),
    "top_layers r16, top 2": low_rank(top=2, dropout=0.05, words=False),
}
RECIPES: Final[Mapping[str, Way]] = {
    "all_layers r16, LoRA+ (B at 4 times the rate)": low_rank(dropout=0.05, rate=3e-3, up=4.0, words=False),
    "all_layers r16, 8 a batch": low_rank(dropout=0.05, batch=8, words=False),
    "full, 2 epochs, 8 a batch": Way(None, groups_per_batch=8),
    FULL_PLACED: Way(None, words=True),
    "full, 1 epoch, placed words, 8 a batch": Way(None, epochs=1, groups_per_batch=8, words=True),
    "full, 1 epoch, placed words, 8 a batch, 75 % of the choices": Way(None, 1, 8, 0.75, words=True),
    "all r16, placed words": low_rank(),
    "all r16, placed words, 1 epoch, 8 a batch": low_rank(epochs=1, batch=8),
    "all r8, placed words, 1 epoch, 8 a batch, 75 % of the choices": low_rank(8, epochs=1, batch=8, share=0.75),
    "top 4 r16, placed words, 1 epoch, 8 a batch": low_rank(top=4, epochs=1, batch=8),
    "top 3 r16, placed words": low_rank(top=3),
    "top 3 r32, all linear maps, LoRA+ (B at 4 times the rate)": low_rank(32, 3, rate=2e-3, up=4.0, linear=True),
}


EVERY: Final[Mapping[str, Way]] = {**WAYS, **RECIPES}


def like_of(name: str) -> str | None:
    """Full fine-tuning that is like a way; of a full one, and where there is none, None."""
    way = EVERY.get(name)
    if way is None or way.recipe is None:
        return None
    return next((full for full, each in EVERY.items() if each.recipe is None and each.is_like(way)), None)
