"""What is said of 2 million clips: counted operations equal closed forms, and the simulated queue its arithmetic."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
from large_scale import count, encoder_operations, simulate  # noqa: E402
from training_steps import SMALL_ENCODER, SMALL_HEADS  # noqa: E402

from uamix_hf import AudioMAEConfig  # noqa: E402


def test_counted_operations_are_those_of_the_closed_form() -> None:
    config = AudioMAEConfig.preset("base", num_hidden_layers=2, **SMALL_ENCODER)
    found, _ = count(config, SMALL_HEADS)
    patches = 2 * 512 * config.patch_size**2 * config.hidden_size
    assert found["embedding"] == pytest.approx(encoder_operations(config, 513), rel=1e-3)
    # Three views; the backward pass takes two products for each of the forward pass, one for patches, whose input needs
    # no gradient. Of 512 tokens 256 are dropped, after the patches. The heads are what is above it.
    for name, tokens in (("tuning, all tokens", 513), ("tuning, half of the tokens", 257)):
        layers = encoder_operations(config, tokens) - patches * (tokens - 1) / 512
        least = 9 * layers + 6 * patches
        assert least < found[name] < 1.05 * least, name


@pytest.mark.parametrize(("step_clips", "oldest"), [(10, 9), (30, 3), (100, 0), (250, 0)])
def test_the_queue_holds_the_last_clips(step_clips: int, oldest: int) -> None:
    torch.manual_seed(0)
    queue = simulate(size=100, step_clips=step_clips, clips=4_000, steps=12)
    assert queue.replaced == pytest.approx(min(1, step_clips / 100)) and queue.oldest == oldest
    assert queue.own == pytest.approx(100 / 4_000, abs=0.03)


@pytest.mark.slow
def test_the_script_prints_its_tables() -> None:
    command = [sys.executable, str(BENCHMARKS / "large_scale.py"), "--small", "--clips", "200000"]
    printed = subprocess.run([*command, "--processes", "8"], check=True, capture_output=True, text=True).stdout
    assert "| processes | 8 |" in printed and "| clips in a step | 512 |" in printed and "nan" not in printed
