"""Scores of a language model as bytes: what was written is read, what is torn is refused."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save

from online_models.contracts.ids import ModelVersion
from online_models.errors import ArtifactError, StoreError
from online_models.language_scores import LanguageModel, SegmentScores, decode_scores, encode_scores

V3 = ModelVersion("v3")
COUNT = st.shared(st.integers(0, 9))
F32S = st.floats(-100, 100, width=32)


def segments_of(seed: int, segments: int = 3, items: int = 4, k: int = 5) -> SegmentScores:
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(segments, k)).astype(np.float32)
    hashes = rng.integers(0, 2**64, items, np.uint64)
    return SegmentScores(centroids, hashes, rng.normal(size=(segments, items)).astype(np.float32), "aa")


@given(COUNT.flatmap(lambda n: arrays(np.uint64, n)), COUNT.flatmap(lambda n: arrays(np.float32, n, elements=F32S)))
def test_what_was_encoded_is_decoded(items: np.ndarray, scores: np.ndarray) -> None:
    rows = decode_scores(encode_scores(items, scores))
    assert (rows["item"].tolist(), rows["score"].tolist()) == (items.tolist(), scores.tolist())


@pytest.mark.parametrize("score", [np.nan, np.inf, 1e3])
def test_scores_that_no_model_gives_are_refused(score: float) -> None:
    with pytest.raises(StoreError, match="at most 100"):
        decode_scores(encode_scores(np.array([1], np.uint64), np.array([score], np.float32)))


def test_torn_scores_are_refused() -> None:
    with pytest.raises(StoreError, match="12 bytes an item, got 13"):
        decode_scores(bytes(13))


def test_a_user_is_told_what_the_nearest_segment_is() -> None:
    segments = segments_of(1)
    for row, centroid in enumerate(segments.centroids):
        told = segments.of(centroid / np.linalg.norm(centroid))
        nearest = int(np.argmax([c @ centroid for c in segments.centroids]))
        assert told["score"].tolist() == segments.scores[nearest].tolist()
        assert row == nearest or segments.centroids[nearest] @ centroid > centroid @ centroid


def test_segments_are_read_as_written_and_refused_when_torn() -> None:
    segments = segments_of(2)
    read = SegmentScores.decode(segments.encode(), 5, "aa")
    assert read.encode() == segments.encode()
    with pytest.raises(StoreError, match="centroids"):
        SegmentScores.decode(segments.encode(), 6, "aa")
    with pytest.raises(StoreError, match="expected what"):
        SegmentScores.decode(segments.encode()[:-9], 5, "aa")
    with pytest.raises(StoreError, match="the space of factors"):
        SegmentScores.decode(segments.encode(), 5, "bb")


SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
DTYPES = st.sampled_from([np.float32, np.float64, np.uint64, np.int8, np.bool_])
TENSORS: st.SearchStrategy[np.ndarray] = st.tuples(DTYPES, SHAPES).map(lambda of: np.zeros(of[1], of[0]))


@given(TENSORS, TENSORS, TENSORS)
@example(np.zeros((2, 3), np.float32), np.zeros((2, 2), np.uint64), np.zeros((2, 2), np.float32))
@example(np.zeros((2, 3), np.float32), np.zeros((), np.uint64), np.zeros((2, 1), np.float32))
@example(np.zeros((), np.float32), np.zeros(1, np.uint64), np.zeros((1, 1), np.float32))
def test_whatever_tensors_there_are_they_are_refused_or_tell_a_user(
    centroids: np.ndarray, items: np.ndarray, scores: np.ndarray
) -> None:
    told = {"centroids": centroids, "items": items, "scores": scores, "space": np.frombuffer(b"aa", np.uint8)}
    try:
        read = SegmentScores.decode(save(told), 3, "aa")
    except StoreError:
        return
    assert len(read.of(np.ones(3, np.float32))) == len(read.items)
    for field in ("centroids", "scores"):
        spoiled = segments_of(3)
        getattr(spoiled, field)[0, 0] = np.nan
        with pytest.raises(StoreError, match="finite"):
            SegmentScores.decode(spoiled.encode(), 5, "aa")


def test_a_file_that_says_how_scores_are_used_is_checked() -> None:
    assert LanguageModel.of(b'{"weight": 0.5}', V3) == LanguageModel(0.5, 1.0, 0.0, V3)
    for raw, version in ((b"{}", V3), (b"[", V3), (b'{"weight": 1e999}', V3), (b'{"weight": 1}', None)):
        with pytest.raises(ArtifactError):
            LanguageModel.of(raw, version)
