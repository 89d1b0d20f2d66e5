"""What a process does about a version that it cannot load."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from online_models.contracts.ids import ModelVersion
from online_models.errors import StoreUnavailable
from online_models.ports import ModelRegistry
from online_models.stores.filesystem import FilesystemArtifacts
from serving_api.model_cache import RETRY_REFUSED_SECONDS, ModelCache
from tests.samples import MOVIES

V1 = ModelVersion("v1")


@dataclass
class Failing:
    """A registry that fails, and counts how often it was asked."""

    error: Exception
    asked: list[str] = field(default_factory=list)

    def version(self, model: str, version: str) -> None:
        self.asked.append(version)
        raise self.error


def polled(registry: Failing, home: Path, at: Sequence[float]) -> str | None:
    """What is said of the version after polls at some times (monotonic seconds), each of which waits for what it began."""
    with closing(
        ModelCache(MOVIES, FilesystemArtifacts(home), cast(ModelRegistry, registry), 60.0, lambda: None)
    ) as cache:
        for now in at:
            cache.sync([V1], now)
            cache.settle()
        status = cache.status(V1)
        return None if status is None else status.error


@pytest.mark.parametrize("error", [ValueError("odd"), MemoryError("odd"), OSError("odd")])
def test_a_version_that_fails_for_no_known_reason_is_refused_for_a_while(error: Exception, tmp_path: Path) -> None:
    registry = Failing(error)
    assert polled(registry, tmp_path, [0.0, 1.0, 2.0, 3.0]) == f"{type(error).__name__}: odd"
    assert len(registry.asked) == 1
    polled(registry, tmp_path, [0.0, 1.0, 1.0 + RETRY_REFUSED_SECONDS])
    assert len(registry.asked) == 3


def test_a_registry_that_does_not_answer_refuses_nothing_and_is_asked_again(tmp_path: Path) -> None:
    registry = Failing(StoreUnavailable("away"))
    assert polled(registry, tmp_path, [0.0, 1.0, 2.0]) is None
    assert len(registry.asked) == 3
