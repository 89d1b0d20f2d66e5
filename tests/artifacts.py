"""Small seeded artifacts of kind `als`: two tastes, and users who have one or the other."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from online_models import als
from online_models.contracts.artifacts import DataWindow, GoldenQuery, Manifest
from online_models.contracts.features import DEFAULT_FEATURES, spec_hash
from online_models.contracts.ids import ModelName, ModelVersion, hash64
from online_models.embedding_space import Axes
from online_models.history import EMPTY, ENTRY, UserHistory
from online_models.language_scores import LANGUAGE_MODEL_FILE, LanguageModel
from online_models.ports import ArtifactStore, ModelRegistry

FACTORS = 4
HOW = als.FoldIn(alpha=10.0, regularization=0.05, half_life_events=10.0)


@dataclass(frozen=True)
class SmallModel:
    """Items `i0`...: even ones of one taste, odd ones of the other; users `u0`... likewise.

    item_weights : (items,), each one's sum of c - 1
    """

    items: tuple[str, ...]
    users: tuple[str, ...]
    item_factors: npt.NDArray[np.float32]
    user_factors: npt.NDArray[np.float32]
    item_weights: npt.NDArray[np.float32]

    def vector(self, rows: list[int]) -> npt.NDArray[np.float32]:
        """Fold-in (k,) of items, oldest first, each met once with strength 1."""
        recent = np.zeros(len(rows), ENTRY)
        recent["item"] = [hash64(self.items[row]) for row in rows]
        recent["strength"] = 1.0
        gramian = als.gramian(self.item_factors)
        history = UserHistory(recent, EMPTY.seen)
        return als.fold_in_history(history, als.ItemIndex.of(self.items), self.item_factors, gramian, HOW)

    def best(self, vector: npt.NDArray[np.float32], k: int, seen: list[int]) -> list[int]:
        """Rows of the best unseen items, by plain sorting."""
        scores = [(-float(row @ vector), number) for number, row in enumerate(self.item_factors)]
        return [number for _, number in sorted(scores) if number not in seen][:k]

    def files(self) -> dict[str, bytes]:
        """The artifact's files."""
        tensors = {
            "item_factors": self.item_factors,
            "user_factors": self.user_factors,
            "item_weights": self.item_weights,
            "item_gramian": als.gramian(self.item_factors),
            "user_gramian": als.gramian(self.user_factors),
            "item_axes": Axes.of(self.item_factors, self.item_factors).packed(),
            "user_axes": Axes.of(self.item_factors, self.user_factors).packed(),
        }
        return {
            "factors.safetensors": save(tensors),
            "items.json": msgspec.json.encode(self.items),
            "users.json": msgspec.json.encode(self.users),
            "popular.json": msgspec.json.encode(self.items[::-1]),
        }

    def manifest(self, model: ModelName, version: ModelVersion, history: list[int]) -> Manifest:
        """Its manifest, with one golden query of that history."""
        expected = self.best(self.vector(history), 3, history)
        return Manifest(
            model=model,
            version=version,
            kind="als",
            created_at="2026-01-01T00:00:00+00:00",
            files=[],
            hyperparameters={
                "factors": FACTORS,
                "alpha": HOW.alpha,
                "regularization": HOW.regularization,
                "recency_half_life_events": HOW.half_life_events,
            },
            metrics={"ndcg_at_10": 0.1},
            data_window=DataWindow(0, 1, 1),
            sketches=[],
            feature_spec_hash=spec_hash(DEFAULT_FEATURES),
            golden=[GoldenQuery(history, expected)],
        )


def small_model(seed: int, items: int = 30, users: int = 6) -> SmallModel:
    """Factors of the two tastes with seeded noise."""
    rng = np.random.default_rng(seed)
    taste = np.eye(2, FACTORS, dtype=np.float32)
    noise = rng.normal(0, 0.1, (items + users, FACTORS)).astype(np.float32)
    return SmallModel(
        items=tuple(f"i{row}" for row in range(items)),
        users=tuple(f"u{row}" for row in range(users)),
        item_factors=taste[np.arange(items) % 2] + noise[:items],
        user_factors=taste[np.arange(users) % 2] + noise[items:],
        item_weights=rng.exponential(20.0, items).astype(np.float32),
    )


def publish(
    artifacts: ArtifactStore,
    registry: ModelRegistry,
    model: ModelName,
    made: SmallModel,
    *,
    language: bool = False,
    carried: ModelVersion | None = None,
) -> ModelVersion:
    """Write and register the model as a fresh version; language : with a language model of its own; carried : with that of a
    version."""
    version = registry.new_version()
    manifest, files = made.manifest(model, version, [0, 2]), made.files()
    if language or carried:
        kind = "als" if carried else "lora"
        manifest = msgspec.structs.replace(manifest, kind=kind, language_model=carried or version)
        files[LANGUAGE_MODEL_FILE] = msgspec.json.encode(LanguageModel(weight=0.5))
    manifest, sha256 = artifacts.write(manifest, files)
    registry.register(manifest, sha256, "test")
    return version


def flip_one_byte(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
