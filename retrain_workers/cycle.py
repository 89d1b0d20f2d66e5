"""From a leased job to an artifact that waits for publication: the same way for every kind of model.

- Data, training on what was known at a cut, judgement on what came after it, training on everything, the artifact, and its smoke
  test in the reader's own code. What the gate refuses leaves nothing behind.
- A warm start that the gate refuses is tried once more from nothing, within the same job.
- The language model of the champion goes with a new recommender as it is: its scores lie in Redis under the name of the version
  that it came with.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.jobs import JobKind, RetrainJob, TrainLora, until_of, version_of
from online_models.embedding_space import PREFIX
from online_models.text import TEXT_MODEL_FILE, TextModel
from retrain_workers.attempt import Attempt, Part
from retrain_workers.champions import Champion, champion_of
from retrain_workers.data.datasets import refuse_too_little, window_of
from retrain_workers.data.references import reference_sketches, told_in_training
from retrain_workers.data.training_data import TrainingData, read_training_data
from retrain_workers.job_rules import TrainingRules, TrainingStores
from retrain_workers.lora.language_files import language_files
from retrain_workers.publish import Candidate, Prepared, Refused, prepare
from retrain_workers.trainers import Terms, TrainedModel, Trainer, trainer_for
from retrain_workers.validation.evaluation import depth_of, old_regime_cases, parts_and_cases, popularity_of, score
from retrain_workers.validation.gate import Gate, GateReport, judge
from retrain_workers.validation.smoke import smoke, smoke_checks

_LOG = logging.getLogger(__name__)

RECOMMENDER: Final = "recommender"
LANGUAGE: Final = "llm"
"""Components of the features that are monitored."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A model trained on what was known at a cut, and what the gate says of it on what came after."""

    model: TrainedModel
    data: TrainingData
    report: GateReport


def run_job(
    job: RetrainJob, stores: TrainingStores, rules: TrainingRules, now: datetime, attempt: Attempt
) -> Prepared | Refused:
    """Train, judge, and write the candidate's artifact, or say why there is none.

    Raises
    ------
    TrainingError
        When the job cannot give a model: too little data, settings out of range, a model gone astray.
    ArtifactError, StoreError, StoreUnavailable
        When a store fails; another attempt may go better.
    """
    attempt.report("reading")
    parent = stores.registry.champion(job.model)
    champion = champion_of(job.model, parent, stores.registry, stores.artifacts) if parent is not None else None
    trainer: Trainer = trainer_for(job.payload, champion, rules.trainers)
    shown = isinstance(job.payload, TrainLora)
    data = read_training_data(
        stores.interactions, job.model, stores.snapshots, until_of(job.payload), parent, attempt, impressions=shown
    )
    refuse_too_little(data.dataset, rules.min_positive_events, rules.min_items)
    unread = parent is not None and champion is None
    gate = replace(rules.gate, unseen_first=not unread)
    trainer, judged = judged_settings(job, trainer, data, champion, gate, attempt)
    if not judged.report.accepted:
        return Refused(judged.report.reason(), judged.report.encode())
    model, learned = judged.model, judged.data
    if Terms.of(trainer.job).refits:
        learned = data
        model = trainer.fit(data, Part(attempt, "whole"))
    candidate = make_candidate(job, model, learned, judged.report.metrics(), champion)
    prepared = prepare(stores.artifacts, candidate, job, parent, now)
    return _tested(job, prepared, judged.report, stores, rules, model, data, attempt)


def judged_settings(
    job: RetrainJob, trainer: Trainer, data: TrainingData, champion: Champion | None, gate: Gate, attempt: Attempt
) -> tuple[Trainer, Judged]:
    """The trainer whose settings were judged last, and the judgement: of a refused warm start also that of a cold one."""
    again = trainer.from_nothing()
    if again is not None:
        gate = gate.for_each_of(2)
    judged = evaluate(trainer, data, champion, gate, Part(attempt, "judged"))
    _say(job, judged.report)
    if again is None or judged.report.accepted:
        return trainer, judged
    judged = evaluate(again, data, champion, gate, Part(attempt, "judged_cold"))
    _say(job, judged.report)
    return again, judged


def _say(job: RetrainJob, report: GateReport) -> None:
    _LOG.info("job.judged job_id=%s model=%s verdict=%s reason=%r", job.id, job.model, report.verdict, report.reason())


def evaluate(trainer: Trainer, data: TrainingData, champion: Champion | None, gate: Gate, attempt: Attempt) -> Judged:
    """Judge the settings on the newest events, beside the champion where there is one.

    The holdout begins after the champion's training data; see `evaluation.parts_and_cases` for the exception, which the metric
    `holdout_overlaps_champion` (0 or 1) tells.
    """
    terms, window = Terms.of(trainer.job), champion.manifest.data_window if champion is not None else None
    parts, cases = parts_and_cases(data.dataset, terms.holdout_fraction, window, gate.min_users)
    known = data.before(parts.cut_ms)
    model = trainer.fit(known, attempt)
    attempt.report("gate")
    ours, depth = model.ranker(), depth_of(parts.history)
    theirs = None if champion is None else trainer.rival(champion.ranker, known)
    old = (
        []
        if champion is None
        else old_regime_cases(data.dataset, champion.manifest.known_until_ms, terms.holdout_fraction)
    )
    report = judge(
        score(ours, cases, depth),
        score(theirs, cases, depth) if theirs is not None else None,
        score(popularity_of(parts.history, terms.half_life_days), cases),
        gate,
        (score(ours, old, depth), score(theirs, old, depth)) if theirs is not None else None,
        model.checks(gate),
        {
            "holdout_users": float(len(cases)),
            "holdout_events": float(len(parts.holdout)),
            "holdout_overlaps_champion": float(window is not None and parts.cut_ms <= window.end_ms),
        },
    )
    return Judged(model, known, report)


def make_candidate(
    job: RetrainJob,
    model: TrainedModel,
    data: TrainingData,
    metrics: Mapping[str, float],
    champion: Champion | None,
) -> Candidate:
    """What is published of a model that was trained on some data, with the champion's language model unless it has its own."""
    terms, files = Terms.of(job.payload), model.files()
    language_model = recommender_until_ms = None
    if terms.kind is JobKind.LORA:
        assert champion is not None, "an adapter has one to stand beside"
        language_model, recommender_until_ms = version_of(job.token), champion.manifest.known_until_ms
    elif champion is not None and (carried := language_files(champion.files)):
        files |= carried
        language_model = champion.manifest.language_model
    return Candidate(
        kind=terms.kind,
        files=files,
        hyperparameters=model.hyperparameters,
        metrics=metrics,
        data_window=window_of(data.interactions),
        sketches=sketches_of(job, model, data, champion, files.get(TEXT_MODEL_FILE)),
        golden=model.golden(data.dataset),
        seed=terms.seed,
        start=model.start,
        snapshot_sha256=data.snapshot_sha256,
        language_model=language_model,
        recommender_until_ms=recommender_until_ms,
    )


def sketches_of(
    job: RetrainJob,
    model: TrainedModel,
    data: TrainingData,
    champion: Champion | None,
    text_model: bytes | None,
) -> list[FeatureSketch]:
    """The references of all features: of what the job trained over its own data, of what it only carries on the
    champion's."""
    terms = Terms.of(job.payload)
    trained = LANGUAGE if terms.kind is JobKind.LORA else RECOMMENDER
    carried = [] if champion is None else champion.manifest.sketches
    found = {sketch.feature: sketch for sketch in carried if sketch.feature.component != trained}
    wanted = [spec for spec in terms.features if told_in_training(spec) not in found]
    in_space = any(spec.source.startswith(PREFIX) for spec in wanted)
    made = reference_sketches(
        data.interactions,
        job.model,
        wanted,
        terms.half_life_days,
        model.places(data.dataset) if in_space else None,
        terms.pane_seconds,
        None if text_model is None else TextModel.decode(text_model),
    )
    found |= {sketch.feature: sketch for sketch in made}
    return [found[told] for spec in terms.features if (told := told_in_training(spec)) in found]


def _tested(
    job: RetrainJob,
    prepared: Prepared,
    report: GateReport,
    stores: TrainingStores,
    rules: TrainingRules,
    model: TrainedModel,
    data: TrainingData,
    attempt: Attempt,
) -> Prepared | Refused:
    """The prepared artifact once the reader's own code has served from it and its scores are there; dropped where it has not."""
    attempt.report("smoke test")
    version = prepared.manifest.version
    try:
        smoked = smoke(stores.artifacts.path(job.model, version), job.model, rules.smoke.total_seconds())
        report = report.with_checks(smoke_checks(smoked, rules.gate))
        if report.accepted and prepared.manifest.kind == JobKind.LORA:
            publish_scores(job, model, data, stores, rules, attempt)
    except BaseException:
        stores.artifacts.discard(job.model, version)
        raise
    if report.accepted:
        return replace(prepared, report=report.encode())
    stores.artifacts.discard(job.model, version)
    return Refused(report.reason(), report.encode())


def publish_scores(
    job: RetrainJob,
    model: TrainedModel,
    data: TrainingData,
    stores: TrainingStores,
    rules: TrainingRules,
    attempt: Attempt,
) -> None:
    """Write what a LoRA job's language model says into Redis, under the version's name, before anybody asks for it. Idempotent.

    Of a candidate that is never registered it expires unread.
    """
    from retrain_workers.lora.published_scores import Scoring, publish  # brings torch
    from retrain_workers.lora.trainer import LoraModel

    assert isinstance(model, LoraModel), "the kind says so"
    found = Scoring(model.champion, model.scorer, model.items, model.job.candidates)
    publish(found, version_of(job.token), data, stores.language, rules.scored_users, rules.scores_ttl, attempt)
