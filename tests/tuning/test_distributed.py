"""Two real processes against one that holds all the clips."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from accelerate.commands.config.config_args import load_config_from_file
from datasets import Dataset
from processes import run_processes
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from toy_sounds import CONFIG
from transformers import set_seed

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEForPreTraining, AudioMAEModel
from uamix_hf.data import LogMelCollator
from uamix_hf.training.distributed import SyncBatchNorm, gather, world
from uamix_hf.tuning import KNNCallback, UaMixForContrastiveTuning, UaMixTrainingArguments, train_stages
from uamix_hf.tuning.mixing import draw_share

WORLD, BATCH, MEL = 2, 4, 32
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
    model = make_model(symmetric, token_drop=0, topk=1).train()
    model.encoder_batch_size = turn
    torch.manual_seed(1)
    views = torch.randn(2, 8, 96, MEL)
    lengths = torch.tensor([96, 80, 64, 96, 90, 40, 96, 64])
    partner = torch.tensor([1, 2, 3, 0, 7, 6, 5, 4])
    shares = [draw_share(model.config, lengths, partner, 96, MEL) for _ in range(1 + symmetric)]
    model.neighbour_queue.enqueue(torch.nn.functional.normalize(torch.randn(10, 16), dim=-1), torch.arange(10) % 5)
    rows = slice(rank * size, (rank + 1) * size)
    output = model.contrast(
        *views[:, rows],
        lengths[rows],
        torch.arange(8)[rows],
        partner[rows] - rank * size,
        [share[rows] for share in shares],
    )
    output.loss.backward()
    found = {"loss": output.loss.detach(), "clean": output.loss_clean, "mixed": output.loss_mixed}
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
            "log_mel": [(-4 + 2 * torch.randn(n, MEL, generator=generator)).half().numpy() for n in lengths],
            "length": lengths,
            "sample_id": list(range(19)),
            "labels": [i % 3 for i in range(19)],
        }
    ).with_format("torch")
    extractor = AudioMAEFeatureExtractor(num_mel_bins=MEL, max_length=96)
    args = {
        "output_dir": str(folder), "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": BATCH,
        "head_steps": 2, "max_steps": 4, "save_steps": 2, "logging_steps": 2, "data_seed": 3,
    }  # fmt: skip
    found = {}
    for name, resume in (("whole", None), ("resumed", str(folder / "checkpoint-2"))):
        model = make_model(queue_size=16)
        arguments = UaMixTrainingArguments(**args, resume_from_checkpoint=resume)
        callback = KNNCallback(data, LogMelCollator(extractor, 96, normalize=False), neighbours=3)
        trainer = train_stages(model, arguments, data, extractor, [callback])
        found[name] = model.state_dict()
        found["world_size"], found["log"] = arguments.world_size, trainer.state.log_history
    return found


def run_sharded(rank: int, size: int) -> dict[str, torch.Tensor]:
    """Mean losses and whole weights after three steps of pretraining, on rows of a batch of eight; with two processes
    sharded by PyTorch, at the layers that examples/accelerate/fsdp.yaml names."""
    torch.manual_seed(0)
    model = AudioMAEForPreTraining(CONFIG).train()
    if size == BATCH:
        config = load_config_from_file(str(Path(__file__).parents[2] / "examples" / "accelerate" / "fsdp.yaml"))
        layer = config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"]
        parts = [module for module in model.modules() if type(module).__name__ == layer]
        assert len(parts) == CONFIG.num_hidden_layers + CONFIG.decoder_num_hidden_layers
        for module in [*parts, model]:
            fully_shard(module, mesh=init_device_mesh("cpu", (WORLD,)))
        assert all(isinstance(value, DTensor) for value in model.parameters())
    # Not Adam: softmax leaves the biases of keys no gradient but rounding, which Adam would scale up.
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], 0.1)
    generator, losses = torch.Generator().manual_seed(1), []
    for _ in range(3):
        inputs, noise = (torch.randn(8, *shape, generator=generator) for shape in ((64, MEL), (8,)))
        rows = slice(rank * size, (rank + 1) * size)
        optimizer.zero_grad()
        loss = model(inputs[rows], noise=noise[rows]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(gather(loss.detach()[None]).mean())
    weights = {name: getattr(value, "full_tensor", value.clone)() for name, value in model.state_dict().items()}
    return {"losses": torch.stack(losses), **weights}


def work(rank: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_WORLD_SIZE=str(WORLD))
    dist.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    found = {
        "world": world(),
        "gather": gather(torch.full((2, 3), float(rank))),
        "norm": run_norm(ROWS[rank]),
        "contrast": run_contrast(rank, BATCH, False),
        "symmetric": run_contrast(rank, BATCH, True),
        "turns": run_contrast(rank, BATCH, False, 5),
        "steps": run_steps(rank),
        "sharded": run_sharded(rank, BATCH),
        "trainer": run_trainer(Path(folder) / "run"),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What each of two processes found."""
    return run_processes(work, tmp_path_factory.mktemp("ranks"), WORLD)


def assert_all_close(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Gradients reach 10 here, so what may differ is counted from the largest value.
        tolerance = 1e-5 * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(
            found[name], value, atol=tolerance, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


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


@pytest.mark.parametrize("kind", ["contrast", "symmetric", "turns"])
def test_two_processes_equal_one_with_twice_the_batch(ranks, kind):
    expected = run_contrast(0, WORLD * BATCH, kind == "symmetric")
    gradients = [name for name in expected if name.startswith("grad encoder.layers")]
    assert len(gradients) > 20 and all(expected[name].abs().max() > 1e-4 for name in gradients if "weight" in name)
    for found in ranks:
        assert_all_close(found[kind], expected)


def test_a_model_sharded_over_two_processes_takes_the_steps_of_a_whole_one(ranks):
    expected = run_sharded(0, WORLD * BATCH)
    assert expected["losses"][-1] < expected["losses"][0]
    for found in ranks:
        assert_all_close(found["sharded"], expected)


def test_the_support_set_is_the_same_everywhere_after_it_wrapped(ranks):
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
