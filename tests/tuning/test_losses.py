"""The loss of virtual labels against dense labels in float64 numpy."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from uamix_hf.tuning.losses import decorrelation_loss, virtual_label_loss

ROWS, COLUMNS, WIDTH = 8, 24, 10  # a process of three, whose own keys are the middle ones
OWN = torch.arange(8, 16)
PARTNER = OWN.roll(3)


def unit(rows: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, WIDTH), dim=-1)


def dense_loss(predictions, keys, temperature, own, partner=None, lam=None) -> float:
    """Cross-entropy against label rows that are written out, mass being added where columns coincide."""
    logits = predictions.detach().double().numpy() @ keys.double().numpy().T / temperature
    labels = np.zeros_like(logits)
    for row in range(len(logits)):
        labels[row, own[row]] += 1.0 if lam is None else float(lam[row])
        if lam is not None:
            labels[row, partner[row]] += 1.0 - float(lam[row])
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-7)
    top = logits.max(axis=1, keepdims=True)
    log_probabilities = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return float(-(labels * log_probabilities).sum(axis=1).mean())


@pytest.fixture(params=[0.05, 0.15, 1.0])
def case(request):
    torch.manual_seed(int(100 * request.param))
    return unit(ROWS), unit(COLUMNS), request.param


def test_embeddings_that_say_nothing_cost_the_log_of_the_choices():
    for lam in (None, torch.rand(ROWS)):
        loss = virtual_label_loss(torch.zeros(ROWS, WIDTH), unit(COLUMNS), 0.15, OWN, PARTNER, lam)
        assert loss.item() == pytest.approx(math.log(COLUMNS), abs=1e-6)


def test_without_mixing_it_is_plain_cross_entropy(case):
    predictions, keys, temperature = case
    expected = F.cross_entropy(predictions @ keys.T / temperature, OWN)
    for partner, lam in ((None, None), (PARTNER, torch.ones(ROWS))):
        torch.testing.assert_close(virtual_label_loss(predictions, keys, temperature, OWN, partner, lam), expected)


def test_soft_labels_equal_dense_ones(case):
    predictions, keys, temperature = case
    lam = torch.rand(ROWS)
    loss = virtual_label_loss(predictions, keys, temperature, OWN, PARTNER, lam)
    assert loss.item() == pytest.approx(dense_loss(predictions, keys, temperature, OWN, PARTNER, lam), rel=1e-5)
    soft = torch.zeros(ROWS, COLUMNS)
    soft[torch.arange(ROWS), OWN] += lam
    soft[torch.arange(ROWS), PARTNER] += 1 - lam
    torch.testing.assert_close(loss, F.cross_entropy(predictions @ keys.T / temperature, soft))


def test_clip_and_partner_may_change_places(case):
    predictions, keys, temperature = case
    lam = torch.rand(ROWS)
    loss = virtual_label_loss(predictions, keys, temperature, OWN, PARTNER, lam)
    swapped = virtual_label_loss(predictions, keys, temperature, PARTNER, OWN, 1 - lam)
    torch.testing.assert_close(loss, swapped)
    assert not torch.isclose(loss, virtual_label_loss(predictions, keys, temperature, PARTNER, OWN, lam))


def test_a_clip_that_is_its_own_partner_keeps_all_mass(case):
    predictions, keys, temperature = case
    lam = torch.rand(ROWS)
    partner = torch.where(torch.arange(ROWS) < 3, OWN, PARTNER)
    loss = virtual_label_loss(predictions, keys, temperature, OWN, partner, lam)
    assert loss.item() == pytest.approx(dense_loss(predictions, keys, temperature, OWN, partner, lam), rel=1e-5)
    all_own = virtual_label_loss(predictions, keys, temperature, OWN, OWN, lam)
    torch.testing.assert_close(all_own, virtual_label_loss(predictions, keys, temperature, OWN))


def test_gradients_equal_finite_differences_and_reach_predictions_alone(case):
    predictions, keys, temperature = case
    predictions = predictions.clone().requires_grad_()
    lam = torch.rand(ROWS)
    loss = virtual_label_loss(predictions, keys, temperature, OWN, PARTNER, lam)
    loss.backward()
    assert keys.grad is None
    step = 1e-5
    for row, column in [(0, 0), (3, 7), (7, 9)]:
        difference = []
        for sign in (1, -1):
            moved = predictions.detach().double()
            moved[row, column] += sign * step
            difference.append(dense_loss(moved, keys, temperature, OWN, PARTNER, lam))
        numeric = (difference[0] - difference[1]) / (2 * step)
        assert predictions.grad[row, column].item() == pytest.approx(numeric, abs=1e-5)


def test_autocast_changes_nothing():
    """In half precision the similarities would err by per cents, so the loss must leave autocast."""
    torch.manual_seed(0)
    predictions, keys, lam = unit(ROWS), unit(COLUMNS), torch.rand(ROWS)
    expected = [
        virtual_label_loss(predictions[i : i + 1], keys, 0.05, OWN[i : i + 1], PARTNER[i : i + 1], lam[i : i + 1])
        for i in range(ROWS)
    ]
    with torch.autocast("cpu", torch.bfloat16):
        rough = F.cross_entropy(predictions @ keys.T / 0.05, OWN, reduction="none").float()
        found = [
            virtual_label_loss(predictions[i : i + 1], keys, 0.05, OWN[i : i + 1], PARTNER[i : i + 1], lam[i : i + 1])
            for i in range(ROWS)
        ]
    exact = F.cross_entropy(predictions @ keys.T / 0.05, OWN, reduction="none")
    assert (rough - exact).abs().max() > 1e-2  # what is guarded against does happen here
    assert all(loss.dtype == torch.float32 for loss in found)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_lambda_zero_and_one_stay_finite_where_a_key_is_impossible(lam):
    """The probability of the key without mass underflows to 0; 0 * log 0 must be 0."""
    keys = F.normalize(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), dim=-1)
    predictions = torch.tensor([[1.0, 0.0]] if lam == 1 else [[-1.0, 0.0]]).requires_grad_()
    loss = virtual_label_loss(predictions, keys, 0.001, torch.tensor([0]), torch.tensor([1]), torch.tensor([lam]))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert predictions.grad.isfinite().all()


def coding_rate(embeddings: np.ndarray, shrinkage: float, size: int) -> float:
    """log det(I + C / eps) by the eigenvalues of the covariance."""
    covariance = np.cov(embeddings, rowvar=False)
    return np.log1p(np.linalg.eigvalsh(covariance) / (shrinkage * np.trace(covariance) / size)).sum()


@pytest.mark.parametrize(("clips", "width", "size"), [(20, 50, 16), (50, 8, 8), (12, 12, 128)])
def test_decorrelation_is_the_coding_rate_as_a_fraction_of_that_of_white_embeddings(clips, width, size):
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(clips, width)) @ np.diag(generator.uniform(0.01, 3, width)) + 5
    directions = min(clips - 1, width, size)
    white = np.zeros((clips, width))  # equal variance in so many directions, and none in others
    white[:, :directions] = np.linalg.qr(np.c_[np.ones(clips), generator.normal(size=(clips, directions))])[0][:, 1:]
    expected = 1 - coding_rate(embeddings, 0.3, size) / coding_rate(white, 0.3, size)
    found = decorrelation_loss(torch.from_numpy(embeddings).float(), 0.3, size)
    assert found.item() == pytest.approx(expected, abs=1e-5) and 0 < expected < 1
    assert decorrelation_loss(torch.from_numpy(white).float(), 0.3, size).item() == pytest.approx(0, abs=1e-5)


def test_decorrelation_does_not_depend_on_scale_and_its_gradient_is_finite_where_embeddings_collapse():
    embeddings = torch.randn(16, 40, requires_grad=True)
    first = decorrelation_loss(embeddings, 0.3, 32)
    torch.testing.assert_close(decorrelation_loss(1e-3 * embeddings + 7, 0.3, 32), first, atol=1e-4, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(decorrelation_loss(embeddings, 0.3, 32), first)
    collapsed = torch.ones(16, 40, requires_grad=True)
    loss = decorrelation_loss(collapsed, 0.3, 32)
    loss.backward()
    assert loss.item() == 1 and collapsed.grad.isfinite().all()


def test_descent_on_decorrelation_levels_the_directions():
    torch.manual_seed(0)
    embeddings = (torch.randn(64, 8) * torch.logspace(0, -2, 8)).requires_grad_()
    for _ in range(300):
        (gradient,) = torch.autograd.grad(decorrelation_loss(embeddings, 0.3, 8), embeddings)
        with torch.no_grad():
            embeddings -= 20 * gradient
    spread = torch.linalg.eigvalsh(torch.cov(embeddings.detach().T))
    assert spread.min() > 0.5 * spread.max()
