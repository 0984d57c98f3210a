"""Projector, predictor and target projector."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from uamix_hf.tuning import UaMixConfig
from uamix_hf.tuning.heads import ContrastiveHeads


@pytest.fixture
def heads() -> ContrastiveHeads:
    torch.manual_seed(0)
    return ContrastiveHeads(
        20, UaMixConfig(projector_hidden_size=24, projection_size=16, predictor_hidden_size=32, queue_size=0)
    )


def drift(module: nn.Module) -> None:
    """Moves every parameter and every floating-point buffer."""
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            value.add_(torch.randn(value.shape) if value.is_floating_point() else 3)


def test_default_widths_are_those_of_mae_ct():
    heads = ContrastiveHeads(768, UaMixConfig(queue_size=0))
    shapes = [tuple(module.weight.shape) for module in heads.projector if isinstance(module, nn.Linear)]
    assert shapes == [(2048, 768), (2048, 2048), (256, 2048)]
    shapes = [tuple(module.weight.shape) for module in heads.predictor if isinstance(module, nn.Linear)]
    assert shapes == [(4096, 256), (256, 4096)]


def test_linears_have_no_bias_and_only_the_projector_ends_in_a_norm(heads):
    def kinds(stack):
        return [
            "norm" if isinstance(module, nn.BatchNorm1d) else type(module).__name__.lower()
            for module in stack.children()
        ]

    assert kinds(heads.projector) == ["linear", "norm", "relu", "linear", "norm", "relu", "linear", "norm"]
    assert kinds(heads.predictor) == ["linear", "norm", "relu", "linear"]
    for module in heads.modules():
        if isinstance(module, nn.Linear):
            assert module.bias is None
        elif isinstance(module, nn.BatchNorm1d):
            assert module.affine and module.track_running_stats


def test_queries_and_targets_are_unit_vectors_of_the_stacks(heads):
    pooled = torch.randn(6, 20)
    for module in heads.modules():
        if isinstance(module, nn.BatchNorm1d):  # as after some training, in which scales are not all alike
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.5, 2)
    heads.target_projector.load_state_dict(heads.projector.state_dict())
    heads.eval()
    queries, targets = heads.predict(pooled), heads.target(pooled)
    torch.testing.assert_close(queries.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(targets.norm(dim=1), torch.ones(6))
    projector = heads.projector
    hidden = pooled
    for i in (0, 3):
        hidden = F.relu(projector[i + 1](hidden @ projector[i].weight.T))
    projected = projector[7](hidden @ projector[6].weight.T)
    torch.testing.assert_close(targets, projected / projected.norm(dim=1, keepdim=True))
    predicted = F.relu(heads.predictor[1](projected @ heads.predictor[0].weight.T)) @ heads.predictor[3].weight.T
    torch.testing.assert_close(queries, predicted / predicted.norm(dim=1, keepdim=True))


def test_each_call_normalises_by_its_own_batch(heads):
    """In training mode, shifting and scaling all rows of a view alike changes nothing; other views play no part."""
    pooled = torch.randn(16, 20)
    queries = heads.predict(pooled)
    heads.predict(100 * torch.randn(16, 20))
    torch.testing.assert_close(heads.predict(3 * pooled + 5), queries, atol=1e-3, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_views_together_are_views_one_after_the_other(heads, training):
    """Outputs, gradients and running statistics, though one product takes them all."""
    for module in heads.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.5, 2)
    heads.train(training)
    pooled = torch.randn(3, 6, 20) * torch.tensor([1.0, 5.0, 0.2])[:, None, None] + torch.tensor(2.0)
    weight = torch.randn(3, 6, 16)
    one_by_one = copy.deepcopy(heads)
    queries, targets = heads.predict(pooled), heads.target(pooled)
    expected = [one_by_one.predict(view) for view in pooled]
    torch.testing.assert_close(queries, torch.stack(expected))
    torch.testing.assert_close(targets, torch.stack([one_by_one.target(view) for view in pooled]))
    (queries * weight).sum().backward()
    sum((query * part).sum() for query, part in zip(expected, weight, strict=True)).backward()
    for name, parameter in heads.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, one_by_one.get_parameter(name).grad, msg=name)
    for name, value in heads.named_buffers():
        torch.testing.assert_close(value, one_by_one.get_buffer(name), msg=name)


def test_the_target_starts_as_an_exact_copy_that_shares_nothing(heads):
    pairs = list(zip(heads.target_projector.parameters(), heads.projector.parameters(), strict=True))
    assert len(pairs) == 9
    for target, online in pairs:
        assert torch.equal(target, online)
        assert target.data_ptr() != online.data_ptr()
        assert not target.requires_grad and online.requires_grad
    before = copy.deepcopy(heads.target_projector.state_dict())
    drift(heads.projector)
    assert all(torch.equal(value, before[name]) for name, value in heads.target_projector.state_dict().items())


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.99, 1.0])
def test_the_target_is_a_moving_average_of_parameters_with_copied_statistics(heads, momentum):
    drift(heads.projector)
    before = copy.deepcopy(heads.target_projector)
    heads.update_target(momentum)
    online = dict(heads.projector.named_parameters())
    for name, old in before.named_parameters():
        new = heads.target_projector.get_parameter(name)
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * online[name])
        if momentum == 0:
            assert torch.equal(new, online[name])
    for name, value in heads.projector.named_buffers():
        assert torch.equal(heads.target_projector.get_buffer(name), value)
        assert not torch.equal(before.get_buffer(name), value)


def test_no_gradient_reaches_the_target(heads):
    pooled = torch.randn(6, 20, requires_grad=True)
    target = heads.target(pooled)
    assert not target.requires_grad
    (heads.predict(pooled) * target).sum().backward()
    assert all(parameter.grad is None for parameter in heads.target_projector.parameters())
    online = [*heads.projector.parameters(), *heads.predictor.parameters()]
    assert all(parameter.grad is not None for parameter in online)
