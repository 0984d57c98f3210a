"""What must not change a run: examples/tune.py with one thing done in another way takes the same 20 steps.

`trajectory.json` holds the losses and gradient norms of that run, so that another version of the package, or of what it
stands on, takes them too. It is made by

python tests/examples/test_invariants.py

and made again only where a run is meant to become another one (the method's defaults, its order of random draws), in
the same commit, which says so. Where only a dependency has changed, a difference is to be explained first.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from processes import run_example  # noqa: E402
from toy_sounds import CONFIG, EXTRACTOR, write_tones  # noqa: E402

from uamix_hf import AudioMAEModel  # noqa: E402

STORED = Path(__file__).with_name("trajectory.json")
CLIPS, HEAD_STEPS, STEPS = 16, 4, 20
ROUNDING = 1e-3


def write_inputs(folder: Path) -> list[object]:
    """A tiny encoder and 16 sounds; the flags for them. Weights are drawn by numpy, as no version of torch changes."""
    model, draw = AudioMAEModel(CONFIG), np.random.default_rng(0)
    weights = model.state_dict()
    for name, value in weights.items():
        if value.ndim > 1 and "position" not in name:
            value.copy_(value.new_tensor(draw.normal(0, value[0].numel() ** -0.5, value.shape)))
    model.load_state_dict(weights)
    for part in (model, EXTRACTOR):
        part.save_pretrained(folder / "base")
    return ["--model_name_or_path", folder / "base", "--train_dir", write_tones(folder / "sounds", CLIPS)]


def trajectory(inputs: list[object], output: Path, *flags: object, world: int = 1) -> np.ndarray:
    """Loss and gradient norm of each step of stage 2, (20, 2), after 4 of stage 1."""
    fixed = [
        "--output_dir", output, "--use_cpu", "--report_to", "none", "--disable_tqdm", True, "--whiten", "false",
        "--head_steps", HEAD_STEPS, "--max_steps", STEPS, "--save_steps", STEPS, "--logging_steps", 1,
        "--per_device_train_batch_size", 8 // world, "--queue_size", 12, "--topk", 2, "--token_drop", 0.5,
        # Low, since a run of large steps enlarges what is rounding at first.
        "--recipe", "plastic", "--learning_rate", 2e-4, "--head_learning_rate", 2e-4,
        "--projector_hidden_size", 24, "--projection_size", 16, "--predictor_hidden_size", 32,
    ]  # fmt: skip
    ended = run_example("tune.py", *inputs, *fixed, *flags, world=world)
    assert ended.codes == [0] * world, ended.printed
    log = json.loads((output / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["log_history"]
    return np.array([(entry["loss"], entry["grad_norm"]) for entry in log if "loss" in entry])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def run(inputs: list[object], tmp_path: Path) -> Callable[..., np.ndarray]:
    """`run(*flags, world=1)`: the trajectory of a run with further flags."""

    def run(*flags: object, world: int = 1) -> np.ndarray:
        return trajectory(inputs, tmp_path / f"tuned-{len(list(tmp_path.iterdir()))}", *flags, world=world)

    return run


@pytest.fixture(scope="module")
def plain(inputs: list[object], tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Of the run without further flags."""
    return trajectory(inputs, tmp_path_factory.mktemp("plain") / "tuned")


def test_what_changes_the_run_a_little_shows(run, plain):
    """Ten times as much as the tolerance below."""
    assert plain.shape == (STEPS, 2) and np.isfinite(plain).all()
    assert np.abs(run("--learning_rate", 2.2e-4) / plain - 1).max() > 10 * ROUNDING


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--dataloader_num_workers", 2], id="workers", marks=pytest.mark.slow),
        pytest.param(["--activation_checkpointing", True], id="activation checkpointing"),
        pytest.param(["--save_steps", 5], id="checkpoints in between"),
    ],
)
def test_bit_by_bit_the_same(run, plain, flags):
    assert np.array_equal(run(*flags), plain)


def test_log_mels_computed_again_are_bit_by_bit_the_same(run, plain, tmp_path):
    """The other runs find theirs in the first one's cache."""
    cache = tmp_path / "cache"
    assert np.array_equal(run("--cache_dir", cache), plain) and list(cache.rglob("*.arrow"))


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--attn_implementation", "eager"], id="eager attention"),
        pytest.param(["--encoder_batch_size", 5], id="views in turns of 5"),
    ],
)
def test_the_same_but_for_rounding(run, plain, flags):
    other = run(*flags)
    np.testing.assert_allclose(other, plain, rtol=ROUNDING)
    assert not np.array_equal(other, plain)  # the flag has been heard


@pytest.mark.slow
def test_views_in_turns_over_two_processes_are_the_same_but_for_rounding(run):
    whole, turns = run(world=2), run("--encoder_batch_size", 5, world=2)
    np.testing.assert_allclose(turns, whole, rtol=ROUNDING)
    assert not np.array_equal(turns, whole)


def test_the_stored_run_is_repeated(plain):
    stored = json.loads(STORED.read_text())
    np.testing.assert_allclose(plain[:, 0], stored["loss"], rtol=ROUNDING)
    np.testing.assert_allclose(plain[:, 1], stored["grad_norm"], rtol=ROUNDING)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        steps = trajectory(write_inputs(Path(folder)), Path(folder) / "tuned")
    columns = dict(zip(("loss", "grad_norm"), steps.T.tolist(), strict=True))
    STORED.write_text(json.dumps(columns, indent=1) + "\n")


if __name__ == "__main__":
    main()
