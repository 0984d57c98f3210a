"""Tuning in two real processes against one that holds all the clips."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from datasets import Dataset
from processes import assert_all_close, run_processes
from transformers import set_seed

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.data import FeatureCollator
from uamix_hf.training.distributed import world
from uamix_hf.tuning import KNNCallback, UaMixForContrastiveTuning, UaMixTrainingArguments, train_stages
from uamix_hf.tuning.guard_clips import make_guard
from uamix_hf.tuning.mixing import draw_mix_mask

WORLD, BATCH, MEL = 2, 4, 32


def make_model(symmetric: bool = False, **config) -> UaMixForContrastiveTuning:
    set_seed(0)
    encoder = AudioMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        num_mel_bins=MEL,
        max_length=96,
    )
    small = {"projector_hidden_size": 24, "projection_size": 16, "predictor_hidden_size": 32, "queue_size": 12}
    return UaMixForContrastiveTuning.from_encoder(
        AudioMAEModel(encoder), **{**small, "symmetric_mix": symmetric, **config}
    )


def run_contrast(rank: int, size: int, symmetric: bool, turn: int | None = None) -> dict[str, torch.Tensor]:
    """A step on rows of a batch of eight, whose partners are in the same half; the encoder has `turn` views at once."""
    model = make_model(symmetric, token_drop=0, topk=1, decorrelation_weight=0.5).train()
    model.encoder_batch_size = turn
    torch.manual_seed(1)
    views = torch.randn(2, 8, 96, MEL)
    lengths = torch.tensor([96, 80, 64, 96, 90, 40, 96, 64])
    partner = torch.tensor([1, 2, 3, 0, 7, 6, 5, 4])
    mix_masks = [draw_mix_mask(model.config, lengths, partner, 96, MEL) for _ in range(1 + symmetric)]
    model.neighbour_queue.enqueue(torch.nn.functional.normalize(torch.randn(10, 16), dim=-1), torch.arange(10) % 5)
    rows = slice(rank * size, (rank + 1) * size)
    output = model.contrast(
        *views[:, rows],
        lengths[rows],
        torch.arange(8)[rows],
        partner[rows] - rank * size,
        [mix_mask[rows] for mix_mask in mix_masks],
    )
    output.loss.backward()
    found = {"loss": output.loss.detach(), "clean": output.loss_clean, "mixed": output.loss_mixed}
    found["decorrelation"] = output.loss_decorrelation
    found |= {f"grad {name}": value.grad for name, value in model.named_parameters() if value.grad is not None}
    if world()[1] > 1:
        for value in found.values():
            dist.all_reduce(value)
            value /= WORLD
    return {**found, **dict(model.named_buffers())}


def run_steps(rank: int) -> dict[str, torch.Tensor]:
    """Five steps of ordinary training batches, different on each process."""
    model = make_model().train()
    torch.manual_seed(10 + rank)
    for step in range(5):
        ids = torch.arange(BATCH) + BATCH * (WORLD * step + rank)
        frames = 96 if rank else 64
        model(-4 + 2 * torch.randn(BATCH, frames, MEL), torch.ones(BATCH, frames, dtype=torch.long), ids)
    return dict(model.neighbour_queue.named_buffers())


def run_trainer(folder: Path) -> dict:
    """Both stages with checks of neighbours, then the last steps once more from a checkpoint."""
    generator = torch.Generator().manual_seed(2)
    lengths = [64 + 3 * i for i in range(19)]
    data = Dataset.from_dict(
        {
            "features": [(-4 + 2 * torch.randn(n, MEL, generator=generator)).half().numpy() for n in lengths],
            "length": lengths,
            "sample_id": list(range(19)),
            "labels": [i % 3 for i in range(19)],
        }
    ).with_format("torch")
    extractor = AudioMAEFeatureExtractor(num_mel_bins=MEL, max_length=96)
    args = {
        "output_dir": str(folder), "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": BATCH,
        "head_steps": 2, "max_steps": 4, "save_steps": 2, "logging_steps": 2, "data_seed": 3, "recipe": "plastic",
    }  # fmt: skip
    found = {}
    for name, resume in (("whole", None), ("resumed", str(folder / "checkpoint-2"))):
        model = make_model(queue_size=16)
        arguments = UaMixTrainingArguments(**args, resume_from_checkpoint=resume)
        callback = KNNCallback(data, FeatureCollator(extractor, 96, normalize=True), neighbours=3)
        trainer = train_stages(model, arguments, data, extractor, [callback])
        found[name] = model.state_dict()
        found["world_size"], found["log"] = arguments.world_size, trainer.state.log_history
    return found


def guarded_clips() -> Dataset:
    generator = torch.Generator().manual_seed(2)
    rows = [(-4 + 2 * torch.randn(64, MEL, generator=generator)).half().numpy() for _ in range(16)]
    return Dataset.from_dict({"features": rows, "length": [64] * 16, "sample_id": list(range(16))}).with_format("torch")


def run_guarded(folder: Path) -> dict:
    """Both stages at a learning rate that ruins the encoder, so that guards stop the second one."""
    model, extractor = make_model(queue_size=8), AudioMAEFeatureExtractor(num_mel_bins=MEL, max_length=96)
    args = UaMixTrainingArguments(
        str(folder), use_cpu=True, disable_tqdm=True, per_device_train_batch_size=BATCH, head_steps=1, max_steps=4,
        recipe="plastic",
        guard="stop", guard_steps=1, learning_rate=float("1e3"), max_grad_norm=0, warmup_steps=0, save_strategy="no",
    )  # fmt: skip
    trainer = train_stages(model, args, guarded_clips(), extractor)
    return {"state": model.encoder.state_dict(), "log": trainer.state.log_history, "step": trainer.state.global_step}


def work(rank: int, folder: str) -> dict:
    return {
        "guarded": run_guarded(Path(folder) / "guarded"),
        "contrast": run_contrast(rank, BATCH, False),
        "symmetric": run_contrast(rank, BATCH, True),
        "turns": run_contrast(rank, BATCH, False, 5),
        "steps": run_steps(rank),
        "trainer": run_trainer(Path(folder) / "run"),
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What each of two processes found."""
    return run_processes(work, tmp_path_factory.mktemp("ranks"), WORLD)


@pytest.mark.parametrize("kind", ["contrast", "symmetric", "turns"])
def test_two_processes_equal_one_with_twice_the_batch(ranks, kind):
    expected = run_contrast(0, WORLD * BATCH, kind == "symmetric")
    gradients = [name for name in expected if name.startswith("grad encoder.layers")]
    assert len(gradients) > 20 and all(expected[name].abs().max() > 1e-4 for name in gradients if "weight" in name)
    for found in ranks:
        assert_all_close(found[kind], expected)


def test_the_neighbour_queue_is_the_same_everywhere_after_it_wrapped(ranks):
    one, two = (found["steps"] for found in ranks)
    assert all(torch.equal(one[name], two[name]) for name in ("keys", "ids", "labels", "pointer"))
    assert one["pointer"].item() == 40 % 12
    expected = torch.empty(12, dtype=torch.long)
    expected[torch.arange(40) % 12] = torch.arange(40)  # each step's ids run on from rank 0 to rank 1
    assert torch.equal(one["ids"], expected)


def test_a_run_over_two_processes_keeps_them_alike_and_resumes_exactly(ranks):
    one, two = (found["trainer"] for found in ranks)
    assert one["world_size"] == two["world_size"] == 2
    start = make_model(queue_size=16).state_dict()
    for name, value in one["whole"].items():
        # Each process normalises by common statistics, so that even these agree.
        assert torch.equal(value, two["whole"][name]), name
        assert torch.equal(value, one["resumed"][name]), name
    moved = [
        name for name in start if name.startswith("encoder.layers") and not torch.equal(start[name], one["whole"][name])
    ]
    assert len(moved) > 20
    losses = [entry for entry in one["log"] if "loss" in entry]
    assert losses and all({"loss_clean", "loss_mixed", "mix_lambda", "embedding_std"} <= set(entry) for entry in losses)
    assert [entry["step"] for entry in one["log"] if "knn_accuracy" in entry] == [0, 4]


def test_guards_stop_all_processes_with_the_same_encoder(ranks):
    one, two = (found["guarded"] for found in ranks)
    start = make_model(queue_size=8)
    assert one["step"] == two["step"] == 1
    for name, value in start.encoder.state_dict().items():
        assert torch.equal(one["state"][name], value) and torch.equal(two["state"][name], value), name
    # Measured alike on each process, and as by a single one.
    args = UaMixTrainingArguments("unused", use_cpu=True, guard="stop", per_device_train_batch_size=BATCH)
    extractor = AudioMAEFeatureExtractor(num_mel_bins=MEL, max_length=96)
    _, guard = make_guard(start, args, guarded_clips(), extractor)
    expected = guard.measure(start)[0].logged()
    for found in (one, two):
        first = next(entry for entry in found["log"] if "guard_neighbours" in entry)
        assert {name: first[name] for name in expected} == pytest.approx(expected, rel=1e-4)
