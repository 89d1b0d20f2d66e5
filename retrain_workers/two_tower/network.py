"""The two towers in torch: parameters, the loss of a batch, and the tensors that the torch-free user tower is made of.

- Item tower: e_i = id_i + the bag of its categories + the bag of its title's words; v_i = e_i / |e_i|. Id vectors begin near
  zero, so that content speaks first and an id adds only what it has evidence for.
- User tower: the equations of `online_models.two_tower`. Place biases halve attention every few items to begin with, every few
  more from member to member: one begins with the moment, the next with the taste.
- Members are trained side by side, each by a loss of its own: they err apart, and their mean errs less.
- In training item inputs lose a fifth of their entries, drawn anew for each batch by seed and step: nothing that a resumed run
  would have to restore.
- Each number is drawn by numpy from the seed: nothing depends on torch's own state.

For a batch of users u and their targets j, each with weight w_u, a member's loss is the sampled softmax

    s_uj = u · v_j / temperature + log p_uj - log q_j,   L = mean over u of w_u (log Σ_j' exp(s_uj') - s_uj)

with j' over the targets of the batch but those among the user's newest items and other users' copies of u's own target, q_j how
often j is drawn as a target, and p_uj the share that j had of the events newest to u's: what was popular then is no news of u.

References
----------
Yi et al.: Sampling-bias-corrected neural modeling for large corpus item recommendations. RecSys 2019 (logQ).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from online_models.two_tower import DEMOGRAPHICS
from retrain_workers.two_tower.examples import Batch
from retrain_workers.two_tower.items import WORD_ROWS, ItemContent

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Arrays = Mapping[str, npt.NDArray[Any]]

ATTENTION: Final = 32
"""Hidden units of the attention."""

PLACE_HALF_LIFE: Final = 2.0
"""Items after which the first member's attention is halved, before anything is learned."""

HALF_LIFE_STEP: Final = 10.0
"""From a member to the next one. Before the test of MovieLens latest-small and 100k half-lives of 2 and 20 items gave hit@10 of
.1181 and .2014, of 3 and 3 .1178 and .1986."""

BEGIN_TEMPERATURE: Final = 0.1
LEAST_TEMPERATURE: Final = 0.02
"""A cosine over it is at most 50, however long a training is: scores stay within what the blend takes."""

DROPPED: Final = 0.2
"""Share of the entries of item inputs left out in training."""

UNKNOWN_DEMOGRAPHICS: Final = 0.5
"""Share of the users taken as of unknown demographics in training, so that a tower works without."""

ID_SPREAD: Final = 0.02
CONTENT_SPREAD: Final = 0.1
TABLES: Final = ("item_ids", "categories", "words")
"""Parameters that decay: one row each for an item, a category, a word."""

_NEVER: Final = -1e30
_CHUNK: Final = 4096


@dataclass(frozen=True, slots=True)
class Sizes:
    """items, categories : rows; members; d, hidden : of a member's vector and of its hidden layer; length : items pooled
    demographics : name of a table -> its rows
    """

    items: int
    categories: int
    members: int
    d: int
    hidden: int
    length: int
    demographics: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class BatchTensors:
    """A `Batch` on a device; offsets : (b, b), log p_uj - log q_j of the users and targets"""

    items: Tensor
    targets: Tensor
    history: Tensor
    weights: Tensor
    offsets: Tensor
    demographics: Mapping[str, Tensor]

    @classmethod
    def of(cls, batch: Batch, offsets: F32, device: torch.device) -> Self:
        """From arrays."""
        columns = (batch.items, batch.targets, batch.history, batch.weights, offsets)
        items, targets, history, weights, logs = (torch.from_numpy(column).to(device) for column in columns)
        values = {name: torch.from_numpy(column).to(device) for name, column in batch.demographics.items()}
        return cls(items, targets, history, weights, logs, values)


def begin_parameters(sizes: Sizes, seed: int) -> dict[str, F32]:
    """What a cold start begins with; same sizes and seed, same numbers.

    Linear layers are drawn as torch draws them, but for the last one, which is zero: a user begins as the pool itself.
    """
    rng, members, d, h = np.random.default_rng(seed), sizes.members, sizes.d, sizes.hidden
    half_lives = PLACE_HALF_LIFE * HALF_LIFE_STEP ** np.arange(members)

    def normal(spread: float, *shape: int) -> F32:
        return (spread * rng.standard_normal(shape)).astype(np.float32)

    def uniform(fan_in: int, *shape: int) -> F32:
        return rng.uniform(-1, 1, shape).astype(np.float32) / np.float32(math.sqrt(fan_in))

    return {
        "item_ids": normal(ID_SPREAD, sizes.items, members * d),
        "categories": normal(CONTENT_SPREAD, sizes.categories, members * d),
        "words": normal(CONTENT_SPREAD, WORD_ROWS, members * d),
        "attention_weight": uniform(d, members, ATTENTION, d),
        "attention_bias": uniform(d, members, ATTENTION),
        "attention_query": np.zeros((members, ATTENTION), np.float32),
        "place_bias": (-math.log(2) / half_lives[:, None] * np.arange(sizes.length)).astype(np.float32),
        "start_input": normal(CONTENT_SPREAD, members, d),
        "start_score": np.zeros(members, np.float32),
        "mlp_hidden_weight": uniform(d, members, h, d),
        "mlp_hidden_bias": uniform(d, members, h),
        "mlp_out_weight": np.zeros((members, d, h), np.float32),
        "mlp_out_bias": np.zeros((members, d), np.float32),
        "log_temperature": np.array(math.log(BEGIN_TEMPERATURE), np.float32),
        **{DEMOGRAPHICS + name: np.zeros((rows, members * d), np.float32) for name, rows in sizes.demographics.items()},
    }


class Bag(NamedTuple):
    """Rows of a table to be summed, those that are known: `rows` of bag b begin at `begins`[b]; `places` in the matrix of all."""

    rows: Tensor
    begins: Tensor
    places: Tensor

    @classmethod
    def of(cls, rows: Tensor, known: Tensor) -> Self:
        """rows, known : (b, m)"""
        places, many = known.flatten().nonzero()[:, 0], known.sum(1)
        return cls(rows.flatten()[places], many.cumsum(0) - many, places)

    def sums(self, table: Tensor, weights: Tensor) -> Tensor:
        """Σ_m weights_bm table[rows_bm] (b, d); weights : (b, m)"""
        if not len(table):
            # the empty sum is 0, and lets several processes see that no parameter is left out
            return table.new_zeros(len(weights), table.shape[1]) + table.sum()
        weights = weights.flatten()[self.places]
        return functional.embedding_bag(self.rows, table, self.begins, per_sample_weights=weights, mode="sum")


class Towers(nn.Module):
    """The parameters by the names of `begin_parameters`; those of the user tower are called as in the served file."""

    def __init__(self, parameters: Mapping[str, F32], content: ItemContent) -> None:
        """content : of the items in row order"""
        super().__init__()
        self.members = len(parameters["attention_query"])
        self.named = nn.ParameterDict()
        for name, array in parameters.items():
            # a name in a module must not hold a dot
            self.named[name.replace(".", ":")] = nn.Parameter(torch.from_numpy(np.array(array, np.float32)))
        categories, words = content.of_categories, content.of_words
        self.category_rows, self.category_weights = _fixed(categories.rows), _fixed(categories.weights)
        self.word_rows, self.word_weights = _fixed(words.rows), _fixed(words.weights)

    def arrays(self) -> dict[str, F32]:
        """Copies of all parameters."""
        return {
            name.replace(":", "."): np.array(parameter.detach().cpu().numpy(), np.float32)
            for name, parameter in self.named.items()
        }

    def forward(self, batch: BatchTensors, seed: int) -> Tensor:
        """The loss () of a batch; seed : of what is left out."""
        generator = torch.Generator(batch.weights.device).manual_seed(seed)
        inputs = _dropped(self._item_inputs(batch.items), DROPPED, generator)  # (m, D)
        users = self.users(inputs, batch.history, _forgotten(batch.demographics, generator))  # (M, b, d)
        vectors = functional.normalize(self._parts(inputs[batch.targets]), dim=-1)  # (M, b, d)
        offsets = batch.offsets.masked_fill(_left_out(batch), _NEVER)
        # s_uj = u · v_j / temperature + log p_uj - log q_j, of each member
        logits = torch.baddbmm(offsets, users / self._temperature(), vectors.mT)  # (M, b, b)
        own = torch.arange(len(offsets), device=offsets.device).repeat(self.members)
        losses = functional.cross_entropy(logits.flatten(0, 1), own, reduction="none")
        return (losses.view(self.members, -1).mean(0) * batch.weights).mean()

    @torch.no_grad()
    def served(self) -> dict[str, F32]:
        """The tensors of `online_models.two_tower.expected_shapes` but for popularity, temperature as it is."""
        self.eval()
        rows = torch.arange(len(self.named["item_ids"]), device=self.named["item_ids"].device)
        inputs = torch.cat([self._item_inputs(chunk) for chunk in torch.split(rows, _CHUNK)]).cpu().numpy()
        kept = {name: array for name, array in self.arrays().items() if name not in TABLES}
        kept["log_temperature"] = np.log(self._temperature().cpu().numpy())
        return kept | {"item_inputs": inputs, "item_vectors": unit_rows(inputs, self.members)}

    @torch.no_grad()
    def user_vectors(self, history: I64, demographics: Mapping[str, I64] | None = None) -> F32:
        """Vectors (b, D) by rows of items (b, L), newest first, -1 where there is none."""
        self.eval()
        device = self.named["item_ids"].device
        rows = torch.from_numpy(history).to(device)
        inputs = self._item_inputs(torch.arange(len(self.named["item_ids"]), device=device))
        values = {name: torch.from_numpy(column).to(device) for name, column in (demographics or {}).items()}
        members = self.users(inputs, rows, values) / math.sqrt(self.members)  # (M, b, d)
        vectors: F32 = members.transpose(0, 1).flatten(1).cpu().numpy()
        return vectors

    def _item_inputs(self, rows: Tensor) -> Tensor:
        """e (m, D) of rows of items (m,)."""
        p = self.named
        of_categories, of_words = self.category_weights[rows], self.word_weights[rows]
        categories = Bag.of(self.category_rows[rows], of_categories > 0).sums(p["categories"], of_categories)
        words = Bag.of(self.word_rows[rows], of_words > 0).sums(p["words"], of_words)
        inputs: Tensor = p["item_ids"][rows] + categories + words
        return inputs

    def users(self, inputs: Tensor, history: Tensor, demographics: Mapping[str, Tensor]) -> Tensor:
        """The members' u (M, b, d), each of length 1, from item inputs (m, D) and places in them (b, L)."""
        p, known, history = self.named, history >= 0, history.clamp(min=0)
        bag = Bag.of(history, known)
        inputs = self._parts(inputs).contiguous()  # (M, m, d)
        # s_j = attention_query · tanh(attention_weight e + attention_bias) + place_bias
        units = torch.tanh(torch.baddbmm(p["attention_bias"][:, None], inputs, p["attention_weight"].mT))
        scores = torch.bmm(units, p["attention_query"][:, :, None])[..., 0]  # (M, m)
        scores = (scores[:, history] + p["place_bias"][:, None]).masked_fill(~known, _NEVER)  # (M, b, L)
        start = p["start_score"][:, None, None].expand(-1, len(history), 1)
        a = torch.cat([start, scores], 2).softmax(2)  # (M, b, 1 + L)
        # x = a_0 start_input + Σ_j a_j e_j + Σ_name demographics.name[v]
        pools = [bag.sums(each, weights) for each, weights in zip(inputs, a[..., 1:], strict=True)]
        x = a[..., :1] * p["start_input"][:, None] + torch.stack(pools)
        for name, values in demographics.items():
            table = p[(DEMOGRAPHICS + name).replace(".", ":")]
            x = x + self._parts(table[values.clamp(min=0)] * (values >= 0)[:, None])
        hidden = functional.relu(torch.baddbmm(p["mlp_hidden_bias"][:, None], x, p["mlp_hidden_weight"].mT))
        out = torch.baddbmm(p["mlp_out_bias"][:, None], hidden, p["mlp_out_weight"].mT)
        return functional.normalize(x + out, dim=-1)

    def _parts(self, rows: Tensor) -> Tensor:
        """Rows (n, D) as the members have them (M, n, d)."""
        return rows.view(len(rows), self.members, -1).transpose(0, 1)

    def _temperature(self) -> Tensor:
        temperature: Tensor = self.named["log_temperature"].exp().clamp(LEAST_TEMPERATURE, 1.0)
        return temperature


def unit_rows(inputs: F32, members: int) -> F32:
    """Rows (n, D) made of length 1, with equal lengths of the members' parts; a part of zeros becomes its first axis.

    >>> unit_rows(np.array([[3, 4], [0, 0]], np.float32), 1).astype(float).round(2).tolist()
    [[0.6, 0.8], [1.0, 0.0]]
    >>> unit_rows(np.array([[3, 4, 0, 0]], np.float32), 2).astype(float).round(2).tolist()
    [[0.42, 0.57, 0.71, 0.0]]
    """
    exact = inputs.astype(np.float64).reshape(len(inputs), members, -1)
    exact[~exact.any(axis=2), 0] = 1
    exact /= math.sqrt(members) * np.linalg.norm(exact, axis=2, keepdims=True)
    unit: F32 = exact.reshape(inputs.shape).astype(np.float32)
    return unit


def _fixed(array: npt.NDArray[Any]) -> nn.Buffer:
    """What is moved to a device with the parameters and is none."""
    return nn.Buffer(torch.from_numpy(array), persistent=False)


def _dropped(inputs: Tensor, share: float, generator: torch.Generator) -> Tensor:
    kept = torch.rand(inputs.shape, generator=generator, device=inputs.device) >= share
    return inputs * kept / (1 - share)


def _forgotten(demographics: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """The values (b,) with a share of them unknown."""
    told = {}
    for name, values in demographics.items():
        draw = torch.rand(values.shape, generator=generator, device=values.device)
        told[name] = values.masked_fill(draw < UNKNOWN_DEMOGRAPHICS, -1)
    return told


def _left_out(batch: BatchTensors) -> Tensor:
    """bool (b, b): targets j that are no negatives of user u: what u has met, and copies of u's own target."""
    many, items = len(batch.targets), len(batch.items)
    met = torch.zeros(many, items + 1, dtype=torch.bool, device=batch.targets.device)
    met.scatter_(1, torch.where(batch.history >= 0, batch.history, items), value=True)
    met.scatter_(1, batch.targets[:, None], value=True)
    out = met[:, batch.targets]
    out.fill_diagonal_(fill_value=False)
    return out
