"""Two real processes: rows of both are gathered, and batch norm is over the rows of both."""

import pytest
import torch
from processes import assert_all_close, run_processes

from uamix_hf.training.distributed import SyncBatchNorm, gather, world

WORLD = 2
ROWS = {0: slice(0, 3), 1: slice(3, 8)}  # processes need not have equally many
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def norm_case() -> tuple[SyncBatchNorm, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    norm = SyncBatchNorm(7)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return norm, 2 * torch.randn(8, 7) + 3, torch.randn(8, 7)


def run_norm(rows: slice) -> dict[str, torch.Tensor]:
    """Two steps of training and the second's gradients."""
    norm, inputs, weights = norm_case()
    norm(inputs[rows].square())
    mine = inputs[rows].clone().requires_grad_()
    output = norm(mine)
    (output.sin() * weights[rows]).sum().backward()
    found = {"output": output.detach(), "input": mine.grad, "buffers": dict(norm.named_buffers())}
    return {**found, "gradients": torch.stack([norm.weight.grad, norm.bias.grad])}


def work(rank: int, folder: str) -> dict:
    return {"world": world(), "gather": gather(torch.full((2, 3), float(rank))), "norm": run_norm(ROWS[rank])}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What each of two processes found."""
    return run_processes(work, tmp_path_factory.mktemp("ranks"), WORLD)


def test_rows_are_gathered_in_order_of_rank(ranks):
    assert [found["world"] for found in ranks] == [(0, 2), (1, 2)]
    for found in ranks:
        assert found["gather"][:, 0].tolist() == [0, 0, 1, 1]


def test_batch_norm_over_processes_equals_torchs_over_all_rows(ranks):
    norm, inputs, weights = norm_case()
    plain = torch.nn.BatchNorm1d(7)
    plain.load_state_dict(norm.state_dict())
    plain(inputs.square())
    inputs = inputs.requires_grad_()
    output = plain(inputs)
    (output.sin() * weights).sum().backward()
    for found, rows in zip((found["norm"] for found in ranks), ROWS.values(), strict=True):
        torch.testing.assert_close(found["output"], output[rows].detach(), **CLOSE)
        torch.testing.assert_close(found["input"], inputs.grad[rows], **CLOSE)
        assert_all_close(found["buffers"], dict(plain.named_buffers()))
    gradients = sum(found["norm"]["gradients"] for found in ranks)
    torch.testing.assert_close(gradients, torch.stack([plain.weight.grad, plain.bias.grad]), **CLOSE)
