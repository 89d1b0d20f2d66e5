"""What is minimised over packed choices: the taken item is found among its candidates, and each score is a log-odds.

loss = Σ_g w_g (CE_g + BCE_WEIGHT · BCE_g) / Σ_g w_g
CE_g = -log softmax(s_g)_taken
BCE_g = mean over candidates of -log sigmoid(±s), + for the taken one
"""

from typing import Final

import torch
from torch.nn import functional

from retrain_workers.lora.choices import TAKEN

BCE_WEIGHT: Final = 0.5


def choice_losses(scores: torch.Tensor) -> torch.Tensor:
    """CE_g + BCE_WEIGHT · BCE_g (b,) of scores (b, c)."""
    listwise = -functional.log_softmax(scores, 1)[:, TAKEN]
    sign = -torch.ones_like(scores)
    sign[:, TAKEN] = 1
    pointwise = -functional.logsigmoid(sign * scores).mean(1)
    return listwise + BCE_WEIGHT * pointwise


def weighted_mean(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ w l / Σ w of losses (b,) and weights (b,)."""
    return (losses * weights).sum() / weights.sum()
