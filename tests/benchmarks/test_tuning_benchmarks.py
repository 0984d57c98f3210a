"""The benchmarks of tuning, neighbour queue, utilisation and memory run, and compare what they claim to."""

import copy
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
from peak_memory import HiddenPeakError, added_peak  # noqa: E402
from training_steps import (  # noqa: E402
    given_views,
    loss_of_given,
    make_clips,
    make_model,
    plain_copy,
    training_step,
)
from tuning import with_even_crops  # noqa: E402
from utilisation import operations  # noqa: E402

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
# Start of the case: bar, whether more is better.
ROWS = {
    "tuning": {
        "identical settings, difference of the losses": (1e-5, False),
        "identical settings, 6 clips of 10 s": (1.0, True),
        "default recipe for an hour of audio, 6 clips of 10 s": (1.5, True),
        "default recipe for an hour of audio, 6 clips of 5 s": (3.0, True),
        "default recipe for an hour of audio, 6 clips of 1 s": (10.0, True),
        "default recipe for less audio, 6 clips of 10 s": (1.5, True),
        "default recipe for less audio, 6 clips of 5 s": (3.0, True),
        "default recipe for less audio, 6 clips of 1 s": (10.0, True),
    },
    "neighbour_queue": {"fraction of a step": (0.02, False), "whole step": (None, False)},
    "utilisation": {"encoder, forward": (0.6, True), "tuning step": (0.5, True)},
    "memory": {"8 clips of 10 s": (0.6, False)},
    "modes": {
        f"{mode}: {what}": (None, True)
        for what in ("encoder, forward", "tuning step")
        for mode in ("bfloat16 autocast", "compiled", "compiled, bfloat16 autocast")
    },
}
LAYERS = 2


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What each script wrote; they run beside each other, since no figure of theirs is looked at."""
    folder = tmp_path_factory.mktemp("results")
    flags = ["--small", "--repeats", "2", "--threads", "1", "--output_dir", str(folder)]
    running = {
        name: subprocess.Popen([sys.executable, str(BENCHMARKS / f"{name}.py"), *flags], env=ENVIRONMENT)
        for name in ROWS
    }
    try:
        assert {name: process.wait(timeout=300) for name, process in running.items()} == dict.fromkeys(ROWS, 0)
    finally:
        for process in running.values():
            process.kill()
    return {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ROWS}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_benchmark_runs_and_writes_its_rows(records: dict[str, dict], name: str) -> None:
    rows = records[name]["rows"]
    assert len(rows) == len(ROWS[name])
    for row, (case, (bar, at_least)) in zip(rows, ROWS[name].items(), strict=True):
        assert row["case"].startswith(case) and "hidden size 48" in row["case"]
        assert (row["bar"], row["at_least"]) == (bar, at_least)
        assert all(math.isfinite(row[part]) for part in ("value", "low", "high"))
        assert row["low"] <= row["value"] <= row["high"]
        assert row["low"] > 0 or "difference" in case
        assert all(float(row[side].split()[0].replace(",", "")) > 0 for side in ("ours", "peer"))


@pytest.mark.slow
def test_with_identical_settings_the_script_finds_the_same_loss(records: dict[str, dict]) -> None:
    first = records["tuning"]["rows"][0]
    assert first["reached"] and first["value"] < 1e-5
    assert float(first["ours"]) == pytest.approx(float(first["peer"]), abs=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_our_step_and_the_plain_one_are_the_same_method(seed: int) -> None:
    """Loss, gradients, neighbour queue and target, with the clips in the queue and ten neighbours to choose from."""
    ours = make_model(True, LAYERS, token_drop=0.0, topk=10)
    plain = plain_copy(ours)
    torch.manual_seed(seed)
    given = given_views(ours, 5, 10)
    assert 0 < given["kept"].float().mean() < 1
    losses = []
    for loss in (partial(loss_of_given, ours), plain):
        torch.manual_seed(seed)
        losses.append(loss(**given))
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=0)
    for name in ("projector", "predictor"):
        gradients_agree(getattr(ours.heads, name), getattr(plain, name))
    gradients_agree(ours.encoder, plain.encoder)
    torch.testing.assert_close(ours.neighbour_queue.keys, plain.queue)
    assert torch.equal(ours.neighbour_queue.ids, plain.queue_ids)
    assert ours.neighbour_queue.pointer.item() == plain.pointer == 5
    for model in (ours.heads, plain):
        before = copy.deepcopy(model.target_projector[0].weight)
        with torch.no_grad():
            model.projector[0].weight.add_(1.0)
        (ours if model is ours.heads else plain).update_target()
        torch.testing.assert_close(model.target_projector[0].weight, before + 0.01)


def gradients_agree(ours: torch.nn.Module, plain: torch.nn.Module) -> None:
    one, two = ([parameter.grad for parameter in module.parameters()] for module in (ours, plain))
    assert len(one) == len(two) and all(gradient is not None for gradient in one + two)
    largest = max(gradient.abs().max().item() for gradient in two)
    assert largest > 1e-4
    torch.testing.assert_close(one, two, atol=1e-4 * largest, rtol=0)


def test_in_the_plain_step_a_clip_never_finds_itself() -> None:
    plain = plain_copy(make_model(True, LAYERS, topk=1))
    targets = torch.nn.functional.normalize(torch.randn(3, 32), dim=-1)
    plain.queue[:3] = targets
    found = plain.neighbours(targets, torch.arange(3))
    others = plain.queue[3:]
    for target, key in zip(targets, found, strict=True):
        best = max(others, key=lambda other: float(other @ target))
        assert torch.equal(key, best)


def test_each_side_encodes_as_many_tokens_as_said() -> None:
    same, default = make_model(True, LAYERS, token_drop=0.0), make_model(True, LAYERS, min_crop=1)
    plain = plain_copy(same)
    given = given_views(same, 2, 1)
    seen: dict[str, list[tuple[int, ...]]] = {"same": [], "plain": [], "default": []}
    for name, encoder in (("same", same.encoder), ("plain", plain.encoder), ("default", default.encoder)):
        for layer in encoder.layers:
            layer.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(tuple(args[0].shape[:2])))
    loss_of_given(same, **given)
    plain(**given)
    for seconds in (10, 5, 1):
        default(**make_clips(2, seconds))
    assert seen["plain"] == [(2, 513)] * 3 * LAYERS
    assert seen["same"] == [(6, 513)] * LAYERS
    columns = [62, 31, 6]  # whole ones of 16 frames in 998, 498 and 98
    assert seen["default"] == [(6, 1 + 8 * count // 2) for count in columns for _ in range(LAYERS)]


def test_crops_of_the_rounds_are_spread_evenly() -> None:
    model = make_model(True, LAYERS, min_crop=0.2, token_drop=0.0)
    columns = []
    model.encoder.layers[0].register_forward_pre_hook(lambda _, args: columns.append((args[0].shape[1] - 1) // 8))
    step = with_even_crops(lambda batch: model(**batch).loss.item(), model, 4)
    for _ in range(5):
        step(make_clips(2, 10))
    shares = [1.0, 0.3, 0.5, 0.7, 0.9]  # of 998 frames, in whole columns of 16
    assert columns == [int(998 * share) // 16 for share in shares]


def test_a_step_trains_every_block_and_moves_the_target() -> None:
    for plain in (False, True):
        model = make_model(True, LAYERS)
        given = given_views(model, 2, 1)
        model = plain_copy(model) if plain else model
        before = copy.deepcopy(model.state_dict())
        step = training_step(model, model if plain else lambda batch, model=model: model(**batch).loss)
        loss = step(**given) if plain else step(make_clips(2, 1))
        assert math.isfinite(loss)
        still = {name for name, value in model.named_parameters() if torch.equal(value, before[name])}
        # A shift before a batch norm changes nothing, so that the bias of the projector's last layer may stand still.
        assert all(name.endswith("projector.7.bias") for name in still), still
        assert all(parameter.grad is None for parameter in model.parameters())


def test_operations_are_those_of_the_closed_formula() -> None:
    batch, clips, width, inner = make_clips(3, 10), 3, 48, 96
    model = make_model(True, LAYERS, min_crop=1)

    def blocks(tokens: int) -> int:
        products = 4 * width**2 + 2 * width * inner  # queries, keys, values, output; the two layers of the MLP
        return LAYERS * (2 * tokens * products + 2 * 2 * tokens**2 * width)

    patch = 2 * 16 * 16 * width
    encoder = model.encoder.eval()
    with torch.no_grad():
        assert operations(lambda: encoder(batch["input_values"])) == clips * (blocks(1 + 504) + 504 * patch)

    model.train()
    projector, predictor, keys = 48 * 64 + 64 * 64 + 64 * 32, 2 * 32 * 96, 512 * 32
    # A backward pass multiplies twice where a forward one does once; patches and keys of a batch have no gradient.
    # Of the 63 columns of tokens a view has the 62 whole ones.
    expected = 3 * clips * (3 * blocks(1 + 248) + 2 * 496 * patch + 3 * 2 * (projector + predictor))
    expected += 2 * clips * 2 * (projector + keys) + 3 * 2 * (2 * clips * clips * 32)
    assert operations(lambda: model(**batch).loss.backward()) == expected


def test_memory_is_the_peak_of_what_is_measured() -> None:
    """In a process of its own, started by a small one: a process begins with the peak of the one that started it."""
    work = "lambda: [np.ones(20_000_000), np.ones(10_000_000)] and np.ones(15_000_000)"
    measure = f"import numpy as np; from peak_memory import added_peak; print(added_peak({work}))"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {measure!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", start], cwd=BENCHMARKS, stdout=subprocess.PIPE, check=True)
    assert int(done.stdout) == pytest.approx(240e6, rel=0.02)


def test_a_peak_that_cannot_be_seen_is_refused() -> None:
    with pytest.raises(HiddenPeakError, match="fresh process"):
        added_peak(lambda: None)
