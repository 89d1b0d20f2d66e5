"""The user tower of a two-tower model, as trained with torch: a user's vector from recent items, computed without torch.

- A file holds the tensors of `expected_shapes` under these names, all float32. A linear layer is stored as torch's
  `nn.Linear` has it: weight (out, in), bias (out,).
- Nothing in the tower depends on who the user is, so that new users work; a history of no items pools the start vector alone.
- What an item says of its own weight depends on no user either: it is computed once, as the tower is loaded.
- Inner sums are float64: no finite tensors and histories give a vector that is not finite.
- A tower has M members, each at work on its own d of the D = M d entries of every item: their vectors lie side by side, so that
  an inner product is the mean over the members.

With recent items j in rows i_j at places p_j (0 = newest; from L on they are left out), demographic values v_name, and e_j the
entries of item_inputs[i_j] that are a member's, each member has

    s_j = attention_query · tanh(attention_weight e_j + attention_bias) + place_bias[p_j]
    a   = softmax of (start_score, s_1, ..., s_n)
    x   = a_0 start_input + Σ_j a_j e_j + Σ_name demographics.name[v_name]
    h   = x + mlp_out_weight relu(mlp_hidden_weight x + mlp_hidden_bias) + mlp_out_bias

and together

    u = (h_1 / |h_1|, ..., h_M / |h_M|) / sqrt(M)
    score_i = u · item_vectors[i] / exp(log_temperature) + popularity_weight · log_popularity[i]

`log_popularity` is the log of an item's share of the newest events. Training leaves to it what it explains, and
`popularity_weight` puts it back; 0 is for a model that needs none.

References
----------
Lakshminarayanan, Pritzel, Blundell: Simple and scalable predictive uncertainty estimation using deep ensembles. NeurIPS 2017
(members that differ in nothing but their beginnings).
Yang et al.: Hierarchical attention networks for document classification. NAACL 2016 (attention by a learned query).
Yi et al.: Sampling-bias-corrected neural modeling for large corpus item recommendations. RecSys 2019 (towers, logQ).
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.errors import ArtifactError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

DEMOGRAPHICS: Final = "demographics."
"""Prefix of the tables of demographic values, such as `demographics.gender`."""

_SIZES: Final = ("item_inputs", "attention_query", "place_bias", "mlp_hidden_bias")
_NORM_TOLERANCE: Final = 1e-3
_LARGEST_LOG: Final = 20.0
_CHUNK: Final = 4096

Array = TypeVar("Array", bound=npt.NDArray[Any])


class _Weights(NamedTuple):
    """What the kernels read. item_scores : (M, items), attention_query · tanh(...) of each; mlp_out_weight : turned (M, h, d)"""

    item_inputs: F32
    item_scores: F64
    place_bias: F64
    start_input: F64
    start_score: F64
    mlp_hidden_weight: F64
    mlp_hidden_bias: F64
    mlp_out_weight: F64
    mlp_out_bias: F64

    @classmethod
    def of(cls, tensors: Mapping[str, F32]) -> Self:
        """From a file's tensors."""
        exact = {name: tensors[name].astype(np.float64) for name in cls._fields[2:]}
        exact["mlp_out_weight"] = exact["mlp_out_weight"].transpose(0, 2, 1)
        return cls(_fixed(tensors["item_inputs"]), _fixed(_item_scores(tensors)), *map(_fixed, exact.values()))


def expected_shapes(tensors: Mapping[str, F32]) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of a file, by its demographic tables and the sizes of four tensors.

    items and D are those of `item_inputs`, M and a of `attention_query`, L of `place_bias`, h of `mlp_hidden_bias`; ArtifactError
    when one of them is missing, or the members have no equal parts of D.
    """
    if missing := [name for name in _SIZES if name not in tensors]:
        raise ArtifactError(f"two-tower: expected tensors {', '.join(missing)}, got {', '.join(sorted(tensors))}")
    items, entries = (*tensors["item_inputs"].shape, 0, 0)[:2]
    members = max((1, *tensors["attention_query"].shape[:1]))
    a, length, h = (tensors[name].size // members for name in _SIZES[1:])
    d, rest = divmod(entries, members)
    if rest:
        raise ArtifactError(f"two-tower: expected equal parts for {members} members, got {entries} entries of an item")
    return {
        "item_inputs": (items, entries),
        "item_vectors": (items, entries),
        "log_popularity": (items,),
        "attention_weight": (members, a, d),
        "attention_bias": (members, a),
        "attention_query": (members, a),
        "place_bias": (members, length),
        "start_input": (members, d),
        "start_score": (members,),
        "mlp_hidden_weight": (members, h, d),
        "mlp_hidden_bias": (members, h),
        "mlp_out_weight": (members, d, h),
        "mlp_out_bias": (members, d),
        "log_temperature": (),
        "popularity_weight": (),
        **{name: (*tensors[name].shape[:1], entries) for name in tensors if name.startswith(DEMOGRAPHICS)},
    }


class UserTower:
    """A verified tower; its arrays are never written to.

    item_vectors : float32 (items, D), each of length 1

    >>> shapes = {"item_inputs": (5, 4), "attention_query": (2, 3), "place_bias": (2, 10), "mlp_hidden_bias": (2, 6)}
    >>> shapes = expected_shapes({name: np.empty(shape, np.float32) for name, shape in shapes.items()})
    >>> tensors = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    >>> UserTower.of(tensors).vector(np.array([3, 1])).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """

    __slots__ = ("_demographics", "_log_popularity", "_popularity_weight", "_temperature", "_weights", "item_vectors")

    def __init__(self, tensors: Mapping[str, F32]) -> None:
        """tensors : as `of` has checked them"""
        self.item_vectors = _fixed(tensors["item_vectors"])
        self._log_popularity = _fixed(tensors["log_popularity"])
        self._temperature = np.float32(np.exp(tensors["log_temperature"]))
        self._popularity_weight = np.float32(tensors["popularity_weight"])
        self._weights = _Weights.of(tensors)
        tables = (name for name in tensors if name.startswith(DEMOGRAPHICS))
        self._demographics = {name.removeprefix(DEMOGRAPHICS): tensors[name].astype(np.float64) for name in tables}

    @classmethod
    def of(cls, tensors: Mapping[str, F32]) -> Self:
        """The tower in a file's tensors.

        Raises
        ------
        ArtifactError
            When a tensor is missing, unknown, of another shape or dtype, or not finite; when an item vector has not length 1
            or the temperature is out of range. It says what was expected and what came.
        """
        shapes = expected_shapes(tensors)
        if differing := ", ".join(sorted(shapes.keys() ^ tensors.keys())):
            raise ArtifactError(f"two-tower: expected the tensors of the format, missing or unknown: {differing}")
        for name, shape in shapes.items():
            _check(name, tensors[name], shape)
        squares = np.einsum("id,id->i", tensors["item_vectors"], tensors["item_vectors"], dtype=np.float64)
        if (off := np.abs(np.sqrt(squares) - 1) > _NORM_TOLERANCE).any():
            raise ArtifactError(f"item_vectors: expected rows of length 1, got {off.sum()} of another")
        if abs(log := float(tensors["log_temperature"])) > _LARGEST_LOG:
            raise ArtifactError(f"log_temperature: expected at most {_LARGEST_LOG} either way, got {log}")
        return cls(tensors)

    def __len__(self) -> int:
        return len(self.item_vectors)

    def vector(self, rows: Rows, *, places: Rows | None = None, demographics: Mapping[str, int] | None = None) -> F32:
        """One user's vector (D,), as `vectors` has it; demographics : by table the row of the user's value."""
        indptr = np.array([0, len(rows)], np.int64)
        values = {name: np.array([value], np.int64) for name, value in (demographics or {}).items()}
        vector: F32 = self.vectors(indptr, rows, places=places, demographics=values)[0]
        return vector

    def vectors(
        self, indptr: Rows, rows: Rows, *, places: Rows | None = None, demographics: Mapping[str, Rows] | None = None
    ) -> F32:
        """User vectors of length 1; zeros where a member's last layer gives exactly zero.

        Parameters
        ----------
        indptr : (users + 1,); rows : (n,), CSR rows of recent items, oldest first; negative ones (unknown items) are left out
        places : (n,), how many later events of the user there are; None: as many as rows. Equal places are for events that have
            no order, such as those of one basket
        demographics : by table the row (users,) of each user's value; negative where unknown, which adds nothing

        Returns
        -------
        float32 (users, D)

        Raises
        ------
        ValueError
            When a row, a place or a value is out of range, a table unknown, or the lengths do not match.
        """
        if len(indptr) == 0 or indptr[0] != 0 or indptr[-1] != len(rows) or (np.diff(indptr) < 0).any():
            raise ValueError(f"expected CSR rows, got {len(rows)} of them and bounds {indptr[:1]} to {indptr[-1:]}")
        if rows.max(initial=-1) >= len(self):
            raise ValueError(f"expected rows below {len(self)}, got {rows.max()}")
        if places is None:
            places = np.repeat(indptr[1:], np.diff(indptr)) - 1 - np.arange(len(rows))
        if len(places) != len(rows) or places.min(initial=0) < 0:
            raise ValueError(f"expected a place >= 0 of each of {len(rows)} rows, got {len(places)} places")
        vectors = np.empty((len(indptr) - 1, self.item_vectors.shape[1]), np.float32)
        indptr, rows, places = (_fixed(np.asarray(column, np.int64)) for column in (indptr, rows, places))
        _fill(indptr, rows, places, self._added(demographics or {}, len(vectors)), self._weights, vectors)
        return vectors

    def _added(self, demographics: Mapping[str, Rows], users: int) -> F64:
        """Σ_name demographics.name[v_name] (users, D)."""
        added = np.zeros((users, self.item_vectors.shape[1]))
        for name, values in demographics.items():
            table = self._demographics.get(name)
            if table is None:
                raise ValueError(f"expected a table of {sorted(self._demographics)}, got {name!r}")
            if len(values) != users or values.max(initial=-1) >= len(table):
                raise ValueError(f"{name}: expected {users} rows below {len(table)}, got {values}")
            known = values >= 0
            added[known] += table[values[known]]
        return added

    def scores(self, vector: F32) -> F32:
        """Score (items,) of each item for a user's vector (D,)."""
        return _scores(self.item_vectors, self._log_popularity, self.query(vector))

    def query(self, vector: F32) -> F32:
        """[u / temperature, popularity_weight] (D + 1,): its inner products with `search_vectors` are the scores."""
        return np.append(np.asarray(vector, np.float32) / self._temperature, self._popularity_weight)

    def search_vectors(self) -> F32:
        """[item_vectors, log_popularity] (items, D + 1), for an index of inner products."""
        return np.column_stack([self.item_vectors, self._log_popularity])


def _check(name: str, tensor: F32, shape: tuple[int, ...]) -> None:
    if tensor.dtype != np.float32 or tensor.shape != shape:
        raise ArtifactError(f"{name}: expected float32 {shape}, got {tensor.dtype} {tensor.shape}")
    if not np.isfinite(tensor).all():
        raise ArtifactError(f"{name}: expected finite values, got {np.count_nonzero(~np.isfinite(tensor))} others")


def _fixed(array: Array) -> Array:
    """A view that is read-only, so that the kernels compile once, for memory-mapped tensors and others."""
    view: Array = np.require(array, requirements=["C", "A"]).view()
    view.flags.writeable = False
    return view


def _item_scores(tensors: Mapping[str, F32]) -> F64:
    """attention_query · tanh(attention_weight e + attention_bias) of each member and item (M, items)."""
    names = ("attention_weight", "attention_bias", "attention_query")
    weight, bias, query = (tensors[name].astype(np.float64) for name in names)
    inputs, (members, _, d) = tensors["item_inputs"], weight.shape
    scores = np.empty((members, len(inputs)))
    for at in range(0, len(inputs), _CHUNK):
        chunk = inputs[at : at + _CHUNK].astype(np.float64).reshape(-1, members, d)
        for m in range(members):
            scores[m, at : at + _CHUNK] = np.tanh(chunk[:, m] @ weight[m].T + bias[m]) @ query[m]
    return scores


@njit(cache=True, nogil=True)
def _fill(indptr: Rows, rows: Rows, places: Rows, added: F64, of: _Weights, vectors: F32) -> None:
    """`vectors` (users, D) of the CSR rows; `added` (users, D) is of the demographics."""
    members, d = of.start_input.shape
    vectors[:] = 0.0
    for user in range(indptr.size - 1):
        start, end = indptr[user], indptr[user + 1]
        for m in range(members):
            own = slice(m * d, (m + 1) * d)
            h = _project(_pool(rows[start:end], places[start:end], of, m) + added[user, own], of, m)
            largest = np.abs(h).max() if h.size else 0.0
            if largest > 0:
                h /= largest  # no square is lost or overflows
                # u = h / |h|, of M members
                vectors[user, own] = h / np.sqrt(members * (h * h).sum())


@njit(cache=True, nogil=True)
def _pool(rows: Rows, places: Rows, of: _Weights, m: int) -> F64:
    """a_0 start_input + Σ_j a_j e_j (d,) of a member."""
    scores, largest, first = np.full(rows.size, -np.inf), of.start_score[m], m * of.start_input.shape[1]
    for j in range(rows.size):
        if rows[j] >= 0 and places[j] < of.place_bias.shape[1]:
            scores[j] = of.item_scores[m, rows[j]] + of.place_bias[m, places[j]]
            largest = max(largest, scores[j])
    # a_j = exp(s_j - max) / Σ exp(s - max)
    total = np.exp(of.start_score[m] - largest)
    x: F64 = total * of.start_input[m]
    for j in range(rows.size):
        if scores[j] > -np.inf:
            weight, item = np.exp(scores[j] - largest), of.item_inputs[rows[j]]
            total += weight
            for column in range(x.size):
                x[column] += weight * item[first + column]
    pooled: F64 = x / total
    return pooled


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _project(x: F64, of: _Weights, m: int) -> F64:
    """x + mlp_out_weight relu(mlp_hidden_weight x + mlp_hidden_bias) + mlp_out_bias (d,) of a member."""
    h: F64 = x + of.mlp_out_bias[m]
    for unit in range(of.mlp_hidden_bias.shape[1]):
        hidden, row, out = of.mlp_hidden_bias[m, unit], of.mlp_hidden_weight[m, unit], of.mlp_out_weight[m, unit]
        for column in range(x.size):
            hidden += row[column] * x[column]
        if hidden > 0:
            for column in range(x.size):
                h[column] += hidden * out[column]
    return h


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _scores(item_vectors: F32, log_popularity: F32, query: F32) -> F32:
    """`query` (D + 1,) times each row of [item_vectors, log_popularity]; one thread, no copy of either."""
    found, d = np.empty(item_vectors.shape[0], np.float32), item_vectors.shape[1]
    for row in range(found.size):
        total = query[d] * log_popularity[row]
        for column in range(d):
            total += query[column] * item_vectors[row, column]
        found[row] = total
    return found
