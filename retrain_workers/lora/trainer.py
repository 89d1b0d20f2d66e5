"""A LoRA job: an adapter of a language model beside the champion's recommender, whose best items it puts in a new order.

- In time, of what may be learned from: choices of the past (the tiny base, where one has to be made), the newest choices (the
  adapter, with a replay of older ones), and the last part, on which the weight of the language model is fitted. What the gate
  judges on comes after all of these.
- What was judged is published as it is: an adapter trained again on the judged events would be one that nobody has judged, and
  cost twice as much.
- A tiny base is made once and handed on from version to version, until too many words of the catalogue are new to it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from online_models.contracts.artifacts import GoldenQuery
from online_models.contracts.events import Item
from online_models.contracts.jobs import Start, TrainLora
from online_models.errors import ArtifactError, TrainingError
from online_models.language_scores import LANGUAGE_MODEL_FILE, LanguageModel
from online_models.text import TEXT_MODEL_FILE, TextModel
from retrain_workers.als import AlsModel
from retrain_workers.attempt import Attempt
from retrain_workers.champions import Champion
from retrain_workers.data.datasets import Dataset, half_life_over
from retrain_workers.data.impressions import Impressions
from retrain_workers.data.references import Places
from retrain_workers.data.sampling import Negatives, negatives
from retrain_workers.data.training_data import TrainingData
from retrain_workers.determinism import deterministic
from retrain_workers.lora.adapters import Adapter
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.choices import TAKEN, ChoiceGroups, choices_of, decayed, with_replay
from retrain_workers.lora.fitting import train_adapter
from retrain_workers.lora.language_files import VOCABULARY_FILE, tiny_base_of, with_tiny_base
from retrain_workers.lora.prompts import Words, item_text, words_of
from retrain_workers.lora.ranking import MIN_CHOICES as MIN_LATER
from retrain_workers.lora.ranking import ItemTexts, LoraRanker, fitted_weight, later_choices
from retrain_workers.lora.scoring import Scorer
from retrain_workers.lora.tiny_base import Pretraining, pretrain
from retrain_workers.validation.calibration import PLATT, Calibration, Platt, calibrate, calibration_check
from retrain_workers.validation.evaluation import Ranker, cases_of, newest
from retrain_workers.validation.gate import Check, Gate

_LOG = logging.getLogger(__name__)

VALIDATION_SHARE: Final = 0.15
"""Of the positive events that may be learned from: the last, on which the language model's weight is fitted; fewer where fewer
are newer than the champion."""

BASE_SHARE: Final = 0.6
"""Of the choices before those: the first, which a tiny base is made of."""

MOST_BASE_CHOICES: Final = 2_750
MOST_NEW_WORDS: Final = 0.1
"""A tiny base to which a larger share of the catalogue's words is new is made again."""

MIN_CHOICES: Final = 50

F64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Texts:
    """What the language model reads: ids of the catalogue's items in sorted order, and their texts."""

    ids: list[str]
    texts: list[str]

    @classmethod
    def of(cls, catalogue: Mapping[str, Item]) -> "Texts":
        """Of all items that the catalogue names."""
        ids = sorted(catalogue)
        return cls(ids, [item_text(catalogue[item]) for item in ids])


@dataclass(frozen=True)
class LoraModel:
    """The champion's recommender with a language model beside it; see `trainers.TrainedModel`.

    base_files : of a tiny base, empty for a mounted one; use : how the scores are used
    start : a tiny base was made (`cold`), or one was there (`warm`)
    """

    champion: Champion
    base: BaseModel
    base_files: Mapping[str, bytes]
    adapter: Adapter
    texts: Texts
    use: LanguageModel
    calibration: Calibration
    job: TrainLora
    start: Start

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """Those of the champion, and what the adapter is made of."""
        figures = self.adapter.figures
        lora = {
            "rank": figures.shape.rank,
            "alpha": figures.shape.alpha,
            "dropout": figures.shape.dropout,
            "first_layer": figures.shape.first_layer,
            "trainable_share": figures.trainable_share,
            "steps": figures.steps,
            "choices": figures.choices,
            "weight": self.use.weight,
            "recent": self.job.recent,
            "candidates": self.job.candidates,
        }
        return {
            **self.champion.manifest.hyperparameters,
            **{f"lora_{name}": float(each) for name, each in lora.items()},
        }

    def files(self) -> dict[str, bytes]:
        """The champion's files, unchanged, and those of the language model."""
        return {
            **self.champion.files,
            **self.adapter.files(),
            **with_tiny_base(self.base_files),
            LANGUAGE_MODEL_FILE: msgspec.json.encode(self.use),
            TEXT_MODEL_FILE: TextModel.of(self.texts.texts).encode(),
        }

    @cached_property
    def scorer(self) -> Scorer:
        """The language model at work."""
        return Scorer(self.base, self.texts.texts, self.adapter)

    @cached_property
    def items(self) -> ItemTexts:
        """Which item has which text."""
        return ItemTexts.of(self.texts.ids, self.job.recent)

    def ranker(self) -> Ranker:
        """The champion's recommender, its best items in the order of both."""
        return LoraRanker(self.champion.ranker, self.scorer, self.items, self.use.weight, self.job.candidates)

    def checks(self, gate: Gate) -> list[Check]:
        """That its probabilities hold, and that it has anything to say: one that counts for nothing only costs."""
        weight = self.use.weight
        detail = f"the language model counts {weight:.3f} beside the recommender, more than 0 needed"
        return [
            calibration_check(self.calibration, gate.calibration_error),
            Check("language_model", weight, 0.0, weight > 0, detail),
        ]

    def places(self, dataset: Dataset) -> Places:
        """In the space of the champion's factors."""
        return self.factors.places(dataset)

    def golden(self, dataset: Dataset) -> list[GoldenQuery]:
        """The champion's."""
        return self.champion.manifest.golden

    @cached_property
    def factors(self) -> AlsModel:
        """The champion's."""
        return AlsModel.of(self.champion.files, self.champion.manifest.hyperparameters)


@dataclass(frozen=True, slots=True)
class LoraTrainer:
    """See `trainers.Trainer`; base_model_dir : a mounted base, None for a tiny one of our own."""

    job: TrainLora
    champion: Champion
    base_model_dir: Path | None
    device: str

    def __post_init__(self) -> None:
        """Refuse settings that cannot give a model."""
        job = self.job
        positive = min(job.rank, job.epochs, job.group_size - 1, job.recent, job.choices, job.candidates) > 0
        if not (positive and 0 < job.holdout_fraction < 1 and job.half_life_days > 0 and job.learning_rate > 0):
            raise TrainingError(f"expected positive settings and a holdout fraction in (0, 1), got {job}")

    def from_nothing(self) -> None:
        """Every adapter begins at the base."""
        return

    def rival(self, recommender: Ranker, data: TrainingData) -> Ranker:
        """The champion with the language model that it has, if it has one."""
        files, texts = self.champion.files, Texts.of(data.catalogue)
        if LANGUAGE_MODEL_FILE not in files:
            return recommender
        items = ItemTexts.of(texts.ids, self.job.recent)
        try:
            scorer = scorer_of(files, texts, self.base_model_dir, self.device)
        except (ArtifactError, TrainingError) as error:  # such as of another base than is mounted now
            _LOG.warning("champion.language_model_unreadable reason=%s", error)
            return recommender
        use = LanguageModel.of(files[LANGUAGE_MODEL_FILE], self.champion.manifest.language_model)
        return LoraRanker(self.champion.ranker, scorer, items, use.weight, self.job.candidates)

    def fit(self, data: TrainingData, attempt: Attempt) -> LoraModel:
        """Train on all of the data.

        Raises TrainingError when there are too few choices, among items with a text, to learn from or to fit the weight on.
        """
        with deterministic(torch.device(self.device)):
            return self._fit(data, attempt)

    def _fit(self, data: TrainingData, attempt: Attempt) -> LoraModel:
        texts = Texts.of(data.catalogue)
        # after the champion's data: what its recommender knows by heart leaves a language model nothing to add; and not all that
        # is new, for the adapter has to learn of it
        parts = newest(data.dataset, VALIDATION_SHARE, self.champion.manifest.data_window.end_ms + 1)
        groups = groups_of(parts.history, data.impressions, texts, self.job, self.job.choices + MOST_BASE_CHOICES)
        later = groups_of(data.dataset, data.impressions, texts, self.job, self.job.choices, parts.cut_ms)
        if min(len(groups), len(later)) < MIN_CHOICES:
            raise TrainingError(
                f"expected at least {MIN_CHOICES} choices before and in the validation part, got {len(groups)} and {len(later)}"
            )
        chosen = later_choices(self.champion.ranker, cases_of(parts), self.job.candidates)
        if len(chosen) < MIN_LATER:
            raise TrainingError(
                f"expected {MIN_LATER} users who later took one of the champion's candidates, got {len(chosen)}"
            )
        base, base_files, start = self._base(texts, groups, attempt)
        new = groups.take(np.arange(max(0, len(groups) - self.job.choices), len(groups)))
        old = groups.take(np.arange(len(groups) - len(new)))
        learned = with_replay(new, old, self.job.replay_share, self.job.seed)
        learned = decayed(learned, half_life_over(learned.ts_ms, self.job.half_life_days))
        adapter = train_adapter(base, texts.texts, learned, later, self.job, attempt)
        scorer, items = Scorer(base, texts.texts, adapter), ItemTexts.of(texts.ids, self.job.recent)
        weight = fitted_weight(scorer, items, chosen)
        shown = groups_of(
            data.dataset, data.impressions, texts, self.job, self.job.choices, parts.cut_ms, only_from_lists=True
        )
        told = data.impressions if len(shown) >= MIN_CHOICES else None
        calibration = calibration_of(scorer, later if told is None else shown)
        return LoraModel(
            champion=self.champion,
            base=base,
            base_files=base_files,
            adapter=adapter,
            texts=texts,
            use=use_of(weight, calibration, told, self.job.group_size),
            calibration=calibration,
            job=self.job,
            start=start,
        )

    def _base(
        self, texts: Texts, groups: ChoiceGroups, attempt: Attempt
    ) -> tuple[BaseModel, Mapping[str, bytes], Start]:
        if self.base_model_dir is not None:
            return BaseModel.open(self.base_model_dir, self.device), {}, Start.WARM
        files, start = tiny_base_of(self.champion.files), Start.WARM
        if not files or new_words(Words.decode(files[VOCABULARY_FILE]), texts.texts) > MOST_NEW_WORDS:
            past = groups.take(np.arange(round(BASE_SHARE * len(groups)))[-MOST_BASE_CHOICES:])
            files, start = pretrain(texts.texts, past, Pretraining(seed=self.job.seed), attempt), Start.COLD
        return BaseModel.of_files(files, self.device), files, start


def scorer_of(files: Mapping[str, bytes], texts: Texts, base_model_dir: Path | None, device: str) -> Scorer:
    """The language model in a version's files, at work. Raises ArtifactError, or TrainingError where its base is not there."""
    if tiny := tiny_base_of(files):
        base = BaseModel.of_files(tiny, device)
    elif base_model_dir is not None:
        base = BaseModel.open(base_model_dir, device)
    else:
        raise TrainingError("expected the base model of the champion's adapter in `base_model_dir`, got none")
    return Scorer(base, texts.texts, Adapter.of_files(files))


def groups_of(
    dataset: Dataset,
    impressions: Impressions | None,
    texts: Texts,
    job: TrainLora,
    most: int,
    since_ms: int | None = None,
    *,
    only_from_lists: bool = False,
) -> ChoiceGroups:
    """The newest choices among items with a text, at most so many, oldest first; none before `since_ms`.

    only_from_lists : none of what people found without us

    A choice that has too few items beside it is left out, see `beside`.
    """
    place = {item: row for row, item in enumerate(texts.ids)}
    row_of = np.array([place.get(item, -1) for item in dataset.items], np.int64)  # (dataset items,)
    positive = np.flatnonzero((dataset.strength > 0) & (row_of[dataset.item] >= 0))
    chosen = positive[dataset.recommended[positive]][-most:] if only_from_lists else positive[-most:]
    if since_ms is not None:
        chosen = chosen[dataset.ts_ms[chosen] >= since_ms]
    stand = beside(dataset, chosen, impressions, job)
    others = np.where(stand.item >= 0, row_of[stand.item], -1)  # (m, c - 1)
    whole = (others >= 0).all(axis=1)
    known = dataset.take(np.isin(np.arange(len(dataset)), positive))
    return choices_of(
        known.user,
        row_of[known.item],
        known.ts_ms,
        np.searchsorted(positive, chosen[whole]),
        others[whole],
        job.recent,
        negative_weights=stand.weight[whole],
    )


def beside(dataset: Dataset, chosen: Rows, impressions: Impressions | None, job: TrainLora) -> Negatives:
    """What stands beside the items of some events (m,), c - 1 of each: see `sampling.negatives`.

    Beside what was taken from a list stands what was shown and not taken. What was found without us was chosen among everything:
    beside it stand popular items. Were it what was shown, a model would learn that all is wrong that is recommended, and a
    recommender shows what the history is like.
    """
    many, from_list = job.group_size - 1, dataset.recommended[chosen]
    found = negatives(dataset, chosen, many, job.seed)
    if impressions is not None and from_list.any():
        shown = negatives(dataset, chosen[from_list], many, job.seed, impressions)
        found.item[from_list], found.weight[from_list] = shown.item, shown.weight
    return found


def calibration_of(scorer: Scorer, choices: ChoiceGroups) -> Calibration:
    """Of the log-odds that a candidate is the one taken, by later choices."""
    scores = np.array(scorer.score_users(choices.histories(), choices.candidates), np.float64)  # (n, c)
    labels = np.zeros(scores.shape)
    labels[:, TAKEN] = 1
    return calibrate(scores.ravel(), labels.ravel(), only=PLATT)


def use_of(weight: float, calibration: Calibration, impressions: Impressions | None, candidates: int) -> LanguageModel:
    """How readers use the scores: their weight, and the log-odds of an item.

    calibration : over choices from lists, with the impressions that tell the rate of what is shown; without impressions over all
        choices, and the log-odds are those of an item that stands beside so many candidates
    """
    assert isinstance(calibration.calibrator, Platt), "no other was asked for"
    intercept = calibration.calibrator.intercept + shift_of(impressions, candidates)
    return LanguageModel(weight, calibration.calibrator.slope, intercept)


def shift_of(impressions: Impressions | None, candidates: int) -> float:
    """What the log-odds of an item that stands beside so many candidates differ by from those of one that is shown.

    Of c candidates one is taken, of what is shown as many as the impressions tell: logit(rate) - logit(1 / c); 0 without any.

    References
    ----------
    King, Zeng: Logistic regression in rare events data. Political Analysis 9, 2001 (prior correction).
    """
    if impressions is None or not len(impressions):
        return 0.0
    rate = (impressions.clicked.sum() + 1) / (len(impressions) + 2)
    return _logit(rate) - _logit(1 / candidates)


def _logit(rate: float) -> float:
    return float(np.log(rate / (1 - rate)))


def new_words(known: Words, texts: Sequence[str]) -> float:
    """Share of the words of texts that a tiny base does not know.

    >>> new_words(Words.of_texts(["heat crime"]), ["heat", "up up"])
    0.5
    """
    words = {word for text in texts for word in words_of(text)}
    return len(words.difference(known.words)) / max(1, len(words))
