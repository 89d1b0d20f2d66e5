"""The objective of choices: what each candidate's weight does to it, and what it leaves alone."""

import numpy as np
import torch

from retrain_workers.lora.choices import candidate_weights_of
from retrain_workers.lora.objective import BCE_WEIGHT, choice_losses


def pointwise_gradient(scores: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Of the pointwise term alone: what is left when the listwise one is taken off."""
    gradients = []
    for of in (weights, torch.zeros_like(scores)):
        given = scores.clone().requires_grad_()
        choice_losses(given, of).sum().backward()  # type: ignore[no-untyped-call]
        assert given.grad is not None
        gradients.append(given.grad)
    return gradients[0] - gradients[1]


def test_candidates_that_weigh_alike_give_the_plain_loss_to_the_bit() -> None:
    scores = torch.randn((40, 6), generator=torch.Generator().manual_seed(0))
    for weight in (1.0, 10.0):
        weights = torch.from_numpy(candidate_weights_of(np.full((40, 5), weight, np.float32)))
        assert torch.equal(choice_losses(scores, weights), choice_losses(scores))


def test_a_rarely_shown_negative_is_pushed_down_by_its_weight_and_the_taken_item_as_before() -> None:
    scores = torch.zeros((1, 4))
    weights = torch.from_numpy(candidate_weights_of(np.array([[1, 1, 4]], np.float32)))
    # d BCE / d s = (sigmoid(s) - y) / c
    expected = BCE_WEIGHT / 4 * torch.tensor([[-0.5, 0.25, 0.25, 1.0]])
    torch.testing.assert_close(pointwise_gradient(scores, weights), expected)
    torch.testing.assert_close(pointwise_gradient(scores, None)[:, 0], expected[:, 0])


def test_by_inverse_propensity_what_was_shown_stands_for_all_that_could_have_been() -> None:
    rng = np.random.default_rng(0)
    items, shown, groups = 40, 30, 4_000
    scores = rng.normal(size=items)
    propensity = 0.15 + 0.85 / (1 + np.exp(-3 * scores))  # the policy shows what it scores high
    drawn = np.array([rng.choice(items, shown, replace=True, p=propensity / propensity.sum()) for _ in range(groups)])
    of = torch.from_numpy(np.column_stack([np.zeros(groups), scores[drawn]]))
    weights = torch.from_numpy(candidate_weights_of((1 / propensity[drawn]).astype(np.float32)))
    truth = np.logaddexp(0, scores).mean()  # of a negative drawn evenly

    def of_negatives(weights: torch.Tensor | None) -> float:
        listwise = choice_losses(of, torch.zeros_like(of))
        pointwise = (choice_losses(of, weights) - listwise) / BCE_WEIGHT * (1 + shown) - np.log(2)
        return float(pointwise.mean()) / shown

    plain, weighed = (abs(of_negatives(each) / truth - 1) for each in (None, weights))
    assert weighed < plain / 5  # biased as 1 / shown, as every self-normalised estimate
    assert weighed < 0.03
