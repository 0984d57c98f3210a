"""A tiny encoder and a few sounds, tuned once without any fault: what each run that met one must end as."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import Ended, run_example
from safetensors.torch import load_file
from toy_sounds import CONFIG, EXTRACTOR, write_tones

from uamix_hf import AudioMAEForPreTraining

CLIPS = 27  # of each epoch, three steps of eight
HEAD_STEPS, STEPS = 4, 8  # saved every second one: within an epoch (2, 4, 8) and between two (6)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Flags for the encoder's and the sounds' folders."""
    base = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    AudioMAEForPreTraining(CONFIG).save_pretrained(base)
    EXTRACTOR.save_pretrained(base)
    sounds = write_tones(tmp_path_factory.mktemp("inputs") / "sounds", CLIPS)
    return ["--model_name_or_path", base, "--train_dir", sounds]


@pytest.fixture(scope="session")
def tune(inputs: list[object]) -> Callable[..., Ended]:
    """`tune(output, *flags, fault=None, world=1)`: examples/tune.py, both stages."""

    def tune(output: Path, *flags: object, fault: Callable | None = None, world: int = 1) -> Ended:
        fixed = [
            "--output_dir", output, "--use_cpu", "--report_to", "none", "--disable_tqdm", True, "--whiten", "false",
            "--recipe", "plastic",
            "--head_steps", HEAD_STEPS, "--max_steps", STEPS, "--save_steps", 2, "--logging_steps", 1,
            "--per_device_train_batch_size", 8 // world, "--queue_size", 20, "--topk", 3, "--learning_rate", 2e-3,
            "--token_drop", 0.5,  # at random, too
            "--projector_hidden_size", 24, "--projection_size", 16, "--predictor_hidden_size", 32,
        ]  # fmt: skip
        return run_example("tune.py", *inputs, *fixed, *flags, fault=fault, world=world)

    return tune


@pytest.fixture(scope="session")
def whole(tune: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a run that nothing befell."""
    output = tmp_path_factory.mktemp("whole") / "tuned"
    ended = tune(output)
    assert ended.codes == [0], ended.printed
    return output


def assert_equal(one: Any, two: Any, where: str) -> None:
    """Of nested states, bit by bit."""
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for name in one:
            assert_equal(one[name], two[name], f"{where}/{name}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), where
        for place, (left, right) in enumerate(zip(one, two, strict=True)):
            assert_equal(left, right, f"{where}/{place}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, two), where
    else:
        assert one == two, where


def losses(checkpoint: Path) -> list[tuple]:
    log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [(e["step"], e["loss"], e["grad_norm"], e["learning_rate"], e["mix_lambda"]) for e in log if "loss" in e]


@pytest.fixture(scope="session")
def assert_same_end() -> Callable[[Path, Path], None]:
    """`assert_same_end(one, two)`: two output folders hold the same encoder, and a last checkpoint with the same
    weights, target, neighbour queue, optimiser, schedule, random states and log of losses."""

    def assert_same_end(one: Path, two: Path) -> None:
        ends = [folder / f"checkpoint-{STEPS}" for folder in (one, two)]
        for folders, name in (((one, two), "model.safetensors"), (ends, "model.safetensors")):
            assert_equal(*(load_file(folder / name) for folder in folders), name)
        names = sorted(path.name for path in ends[0].iterdir())
        assert names == sorted(path.name for path in ends[1].iterdir())
        states = [name for name in names if name.endswith((".pt", ".pth"))]
        assert {"optimizer.pt", "scheduler.pt"} < set(states) and any(name.startswith("rng_state") for name in states)
        for name in states:
            assert_equal(*(torch.load(folder / name, weights_only=False) for folder in ends), name)
        assert losses(ends[0]) == losses(ends[1]) and len(losses(ends[0])) == STEPS

    return assert_same_end
