"""What a language model says of users' candidates, said again before it expires: a chore of workers that train adapters.

- Scores are of users as they were. Half of their time over, they are computed anew for the users of today, by the champion's own
  adapter: no training, and no gate that could refuse one and leave readers without any.
- Scores that are gone before their time, as after Redis has lost its data, are due at once, and so are those that were made
  beside another recommender than the champion: its candidates are others, and new items lie elsewhere in its space.
- The language model works in a process of its own, for one model at a look. Meanwhile the worker takes no job: as long as scores
  take after a training.
- One worker at a time. One that fails leaves its claim, which is the pause before another tries.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Protocol

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.jobs import TrainLora
from online_models.errors import ArtifactError
from online_models.model_registry import ModelRegistry
from online_models.ports import LanguageScoreWrites
from retrain_workers.apart import Ended
from retrain_workers.attempt import Unwatched
from retrain_workers.chores import Chore
from retrain_workers.job_rules import TrainingRules, TrainingStores

LOOK_EVERY: Final = timedelta(minutes=10)

_LOG = logging.getLogger(__name__)


class Rescore(Protocol):
    """Publishes the scores of a model's champion anew; `stopped` : whether to end it now."""

    def __call__(self, model: ModelName, stopped: Callable[[], bool]) -> Ended:
        """How that ended."""


def rescoring(
    registry: ModelRegistry,
    language: LanguageScoreWrites,
    rescore: Rescore,
    ttl: timedelta,
    claim: timedelta,
    worker: str,
) -> Chore:
    """Has scores computed anew where half of their time, `ttl`, is over; nobody else does within the `claim`."""

    def work(_: datetime, stopped: Callable[[], bool]) -> None:
        for model in registry.models():
            champion = champion_with_adapter(registry, model)
            if champion is None or stopped() or language.time_left(model, *champion) > ttl / 2:
                continue
            adapter = champion[0]
            if language.claim_scoring(model, adapter, worker, claim):
                ended = rescore(model, stopped)
                _LOG.info("scores.ended model=%s language_model=%s ended=%r", model, adapter, ended.value)
                if ended in (Ended.DONE, Ended.STOPPED):
                    language.release_scoring(model, adapter)
                return  # the next model at the next look: jobs come first

    return Chore("rescoring", LOOK_EVERY, work)


def champion_with_adapter(registry: ModelRegistry, model: ModelName) -> tuple[ModelVersion, str] | None:
    """The language model of a model's champion and the space of its factors; None where there is no language model."""
    champion = registry.champion(model)
    registered = None if champion is None else registry.version(model, champion)
    if registered is None or registered.manifest.language_model is None:
        return None
    return registered.manifest.language_model, registered.manifest.space


def rescore(model: ModelName, stores: TrainingStores, rules: TrainingRules) -> None:
    """Publish the scores of a model's champion anew, as they are published after a training. Idempotent.

    Raises
    ------
    ArtifactError
        When the champion is gone or torn, or has no language model any more.
    TrainingError
        When the base model of its adapter is not there.
    StoreError, StoreUnavailable
        When a store fails.
    """
    import torch  # here, with all that trains: who only looks whether scores are due needs none of it

    from retrain_workers.champions import champion_of
    from retrain_workers.data.training_data import read_training_data
    from retrain_workers.lora.published_scores import Scoring, publish
    from retrain_workers.lora.ranking import ItemTexts
    from retrain_workers.lora.trainer import Texts, scorer_of
    from retrain_workers.trainers import device_of

    torch.set_num_threads(rules.trainers.threads)
    version = stores.registry.champion(model)
    champion = None if version is None else champion_of(model, version, stores.registry, stores.artifacts)
    adapter = None if champion is None else champion.manifest.language_model
    if champion is None or adapter is None:
        raise ArtifactError(f"{model}: expected a whole champion with a language model, got {version}")
    data = read_training_data(
        stores.interactions, model, stores.snapshots, None, version, Unwatched(), impressions=False
    )
    texts = Texts.of(data.catalogue)
    scorer = scorer_of(champion.files, texts, rules.trainers.base_model_dir, device_of(rules.trainers.device))
    recent, candidates = (_trained_with(stores.registry, model, adapter, name) for name in ("recent", "candidates"))
    found = Scoring(champion, scorer, ItemTexts.of(texts.ids, recent), candidates)
    users = publish(found, adapter, data, stores.language, rules.scored_users, rules.scores_ttl, Unwatched())
    _LOG.info("scores.published model=%s champion=%s language_model=%s users=%d", model, version, adapter, users)


def _trained_with(registry: ModelRegistry, model: ModelName, adapter: ModelVersion, name: str) -> int:
    """A setting that an adapter was trained with; the usual one of an adapter whose manifest does not tell."""
    registered = registry.version(model, adapter)
    figures = {} if registered is None else registered.manifest.hyperparameters
    return int(figures.get(f"lora_{name}", getattr(TrainLora(), name)))
