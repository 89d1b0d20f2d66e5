"""What a recommender is measured by: batch metrics, running ones, per segment and with an honest error.

- `ranking` (one ranking against its relevant items), `ranks` (many events with one target each), `beyond_accuracy`
  (coverage, novelty, diversity, Gini), `pointwise` (RMSE, MAE, AUC, cross-entropy), `calibration`.
- `prequential` (the protocol of running metrics and the fading mean), `windows` (sliding windows of all that is no mean).
- `clusters` (user-clustered standard errors), `segments` (any of them per segment).
"""

from online_models.metrics.beyond_accuracy import (
    catalogue_coverage,
    category_diversity,
    covered_share,
    gini,
    novelty,
    recommendation_counts,
    self_information,
    vector_diversity,
)
from online_models.metrics.calibration import (
    Binning,
    Reliability,
    calibration_ratio,
    expected_calibration_error,
    reliability,
)
from online_models.metrics.clusters import Estimate, clustered_difference, clustered_mean
from online_models.metrics.pointwise import (
    absolute_errors,
    auc,
    cross_entropies,
    cross_entropy,
    mae,
    normalised_cross_entropy,
    rmse,
    squared_errors,
)
from online_models.metrics.prequential import Prequential, PrequentialMetric
from online_models.metrics.ranking import (
    Metric,
    Ranking,
    RankingMetrics,
    average_precision,
    hit_rate,
    mean_metrics,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
)
from online_models.metrics.ranks import hit_at, ndcg_at, reciprocal_rank_at
from online_models.metrics.segments import per_segment, update_per_segment
from online_models.metrics.windows import (
    WindowedAuc,
    WindowedCalibrationError,
    WindowedCalibrationRatio,
    WindowedCoverage,
    WindowedCrossEntropy,
    WindowedGini,
    WindowedMae,
    WindowedMean,
    WindowedNormalisedCrossEntropy,
    WindowedRmse,
)

__all__ = [
    "Binning",
    "Estimate",
    "Metric",
    "Prequential",
    "PrequentialMetric",
    "Ranking",
    "RankingMetrics",
    "Reliability",
    "WindowedAuc",
    "WindowedCalibrationError",
    "WindowedCalibrationRatio",
    "WindowedCoverage",
    "WindowedCrossEntropy",
    "WindowedGini",
    "WindowedMae",
    "WindowedMean",
    "WindowedNormalisedCrossEntropy",
    "WindowedRmse",
    "absolute_errors",
    "auc",
    "average_precision",
    "calibration_ratio",
    "catalogue_coverage",
    "category_diversity",
    "clustered_difference",
    "clustered_mean",
    "covered_share",
    "cross_entropies",
    "cross_entropy",
    "expected_calibration_error",
    "gini",
    "hit_at",
    "hit_rate",
    "mae",
    "mean_metrics",
    "ndcg",
    "ndcg_at",
    "normalised_cross_entropy",
    "novelty",
    "per_segment",
    "precision",
    "recall",
    "reciprocal_rank",
    "reciprocal_rank_at",
    "recommendation_counts",
    "reliability",
    "rmse",
    "self_information",
    "squared_errors",
    "update_per_segment",
    "vector_diversity",
]
