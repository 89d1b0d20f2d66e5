"""What is minimised over packed choices: the taken item is found among its candidates, and each score is a log-odds.

loss = Σ_g w_g (CE_g + BCE_WEIGHT · BCE_g) / Σ_g w_g
CE_g = -log softmax(s_g)_taken
BCE_g = mean over candidates of -v log sigmoid(±s), + for the taken one; v = 1 for it, for the others by their inverse
propensity, 1 on average (Swaminathan and Joachims: The self-normalized estimator for counterfactual learning. NIPS 2015)
"""

from typing import Final

import torch
from torch.nn import functional

from retrain_workers.lora.choices import TAKEN

BCE_WEIGHT: Final = 0.5


def choice_losses(scores: torch.Tensor, candidate_weights: torch.Tensor | None = None) -> torch.Tensor:
    """CE_g + BCE_WEIGHT · BCE_g (b,) of scores (b, c); candidate_weights : v (b, c), None for 1."""
    listwise = -functional.log_softmax(scores, 1)[:, TAKEN]
    sign = -torch.ones_like(scores)
    sign[:, TAKEN] = 1
    pointwise = -functional.logsigmoid(sign * scores)
    if candidate_weights is not None:
        pointwise = candidate_weights * pointwise
    return listwise + BCE_WEIGHT * pointwise.mean(1)


def weighted_mean(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ w l / Σ w of losses (b,) and weights (b,)."""
    return (losses * weights).sum() / weights.sum()
