"""The benchmark of what could be faster runs, and each way computes what the plain one does."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import levers  # noqa: E402
from mixed_batches import EPOCH, MIXED, TAKEN, mixed_batches  # noqa: E402
from training_steps import make_encoder, trainers_optimizer  # noqa: E402

from uamix_hf.data.batches import LengthBucketSampler  # noqa: E402

NAMES = ("AdamW", "views", "visible patches", "queries, keys and values", "clip by clip")


@pytest.mark.slow
def test_it_runs_and_writes_a_share_of_each_way(tmp_path: Path) -> None:
    flags = ["--small", "--repeats", "2", "--threads", "1", "--output_dir", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, str(BENCHMARKS / "levers.py"), *flags], env=environment, check=True)
    rows = json.loads((tmp_path / "levers.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == len(NAMES)
    for row, name in zip(rows, NAMES, strict=True):
        assert f": {name}" in row["case"] and "hidden size 48" in row["case"]
        assert -math.inf < row["low"] <= row["value"] <= row["high"] < 1


def test_the_share_is_that_of_the_job() -> None:
    row = levers.saved_row("", job=[2.0, 4.0, 4.0], plain=[1.0, 1.0, 1.0], other=[0.5, 0.2, 1.2])
    assert (row.low, row.value, row.high) == pytest.approx((-0.05, 0.2, 0.25))


def test_the_ways_of_encoding_are_equal() -> None:
    encoder = make_encoder(True, 2).eval()
    batch = mixed_batches(3, *MIXED["1 to 5 s"])[2]
    assert not batch["attention_mask"].all()
    with torch.no_grad():
        plain = levers.embed(encoder, batch)
        for other in (levers.embed(levers.with_one_product(encoder), batch), levers.clip_by_clip(encoder, batch)):
            torch.testing.assert_close(other, plain, atol=1e-5, rtol=0)


def test_visible_patches_alone_have_the_same_tokens_and_gradients() -> None:
    projection, log_mels = torch.nn.Conv2d(1, 6, 16, 16), torch.randn(2, 48, 128)
    kept = torch.rand(2, 24).argsort(dim=1)[:, :5]
    found = []
    for work in (levers.project_all, levers.project_visible):
        projection.zero_grad()
        tokens = work(projection, log_mels, kept)
        tokens.square().sum().backward()
        found.append([tokens.detach(), *(weight.grad.clone() for weight in projection.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


def test_the_trainers_optimizer_is_adamw_in_one_kernel() -> None:
    weights = [torch.nn.Parameter(torch.randn(5, 5)) for _ in range(2)]
    weights[1].data.copy_(weights[0].data)
    own = trainers_optimizer(weights[:1], lr=1e-3, weight_decay=0.1)
    plain = torch.optim.AdamW(
        weights[1:], **{name: own.defaults[name] for name in ("lr", "betas", "eps", "weight_decay")}
    )
    assert own.defaults["fused"] and not plain.defaults["fused"]
    for _ in range(3):
        gradient = torch.randn(5, 5)
        for weight, optimizer in zip(weights, (own, plain), strict=True):
            weight.grad = gradient
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=0)


def test_batches_of_an_epoch_are_taken_evenly_and_hold_similar_lengths() -> None:
    batches = mixed_batches(4, *MIXED["1 to 10 s"])
    assert len(batches) == TAKEN and EPOCH % TAKEN == 0
    lengths = torch.stack([batch["attention_mask"].sum(dim=1) for batch in batches])
    assert ((lengths.amax(dim=1) - lengths.amin(dim=1)) <= 900 / EPOCH).all()
    assert lengths.float().mean() == pytest.approx(548, abs=10)


def test_batches_of_an_epoch_are_hardly_padded() -> None:
    """As little as if the clips were sorted, and the share that docs/performance.md has, of whole patches."""
    lengths = torch.linspace(98, 998, EPOCH * 8).round().long()
    rows = torch.tensor([int(row) for row in LengthBucketSampler(lengths.tolist(), 8)]).view(EPOCH, 8)
    padded = 8 * (lengths[rows].amax(dim=1) / 16).ceil().sum() * 16
    in_order = np.sort(lengths.numpy()).reshape(EPOCH, 8)
    share = 1 - in_order.sum() / (8 * 16 * np.ceil(in_order[:, -1] / 16)).sum()
    assert float(1 - lengths.sum() / padded) == pytest.approx(share, abs=1e-6)
    page = (BENCHMARKS.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    assert f"{100 * share:.1f} % of an epoch's frames are padding" in page
