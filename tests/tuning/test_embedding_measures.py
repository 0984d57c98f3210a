"""Measures of embeddings against closed forms."""

import numpy as np
import pytest
import torch

from uamix_hf.tuning.embedding_measures import agreement, alignment, effective_rank, embedding_std, neighbours_of


def axes(dimensions: int, used: int) -> np.ndarray:
    """Both directions of some of the axes: centred unit vectors, all singular values alike."""
    return np.concatenate([np.eye(used, dimensions), -np.eye(used, dimensions)]).astype(np.float32)


@pytest.mark.parametrize("used", [1, 3, 8])
def test_the_effective_rank_of_axes_is_their_number(used: int) -> None:
    assert effective_rank(5 * axes(8, used)) == pytest.approx(used, rel=1e-5)


def test_the_effective_rank_of_two_unequal_axes() -> None:
    """Singular values of ratio 2 to 1: the entropy of (2/3, 1/3)."""
    vectors = np.concatenate([axes(2, 1)] * 4 + [axes(2, 2)[[1, 3]]])
    expected = np.exp(np.log(3) - 2 / 3 * np.log(2))
    assert effective_rank(vectors) == pytest.approx(expected, rel=1e-5)


def test_embeddings_that_are_all_the_same_have_no_rank_and_no_spread() -> None:
    vectors = np.tile(np.random.default_rng(0).standard_normal(16).astype(np.float32), (40, 1))
    assert effective_rank(vectors) == 0 and embedding_std(vectors) == pytest.approx(0, abs=1e-5)


def test_the_spread_is_that_of_the_log(make_model) -> None:
    vectors = torch.randn(12, 32)
    assert embedding_std(vectors.numpy()) == pytest.approx(make_model().spread(vectors).item(), rel=1e-5)


def test_alignment_is_the_mean_squared_distance_of_unit_vectors() -> None:
    one = axes(4, 4)
    assert alignment(one, 3 * one) == pytest.approx(0, abs=1e-6)
    assert alignment(one, -one) == pytest.approx(4)
    assert alignment(one, np.roll(one, 1, axis=1)) == pytest.approx(2)


def test_agreement_counts_common_neighbours_in_any_order() -> None:
    assert agreement(np.array([[1, 2], [0, 2], [0, 1]]), np.array([[2, 1], [0, 3], [3, 4]])) == pytest.approx(0.5)


def test_neighbours_are_the_clips_in_the_same_direction_and_fewer_of_few_clips() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(8), 11)
    vectors = np.eye(8)[groups] + 0.01 * rng.standard_normal((88, 8))
    found = neighbours_of(vectors)
    assert found.shape == (88, 10) and (groups[found] == groups[:, None]).all()
    assert (found != np.arange(88)[:, None]).all()
    assert neighbours_of(vectors[:24]).shape == (24, 3) and neighbours_of(vectors[:3]).shape == (3, 1)
