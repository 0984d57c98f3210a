"""Pretraining that PyTorch shards over two real processes takes the steps of a whole model."""

from pathlib import Path

import torch
from accelerate.commands.config.config_args import load_config_from_file
from processes import assert_all_close, run_processes
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from toy_sounds import CONFIG

from uamix_hf import AudioMAEForPreTraining
from uamix_hf.training.distributed import gather

WORLD, BATCH = 2, 4


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
        inputs, noise = (torch.randn(8, *shape, generator=generator) for shape in ((64, CONFIG.num_mel_bins), (8,)))
        rows = slice(rank * size, (rank + 1) * size)
        optimizer.zero_grad()
        loss = model(inputs[rows], noise=noise[rows]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(gather(loss.detach()[None]).mean())
    weights = {name: getattr(value, "full_tensor", value.clone)() for name, value in model.state_dict().items()}
    return {"losses": torch.stack(losses), **weights}


def work(rank: int, folder: str) -> dict:
    return run_sharded(rank, BATCH)


def test_a_model_sharded_over_two_processes_takes_the_steps_of_a_whole_one(tmp_path):
    expected = run_sharded(0, WORLD * BATCH)
    assert expected["losses"][-1] < expected["losses"][0]
    for found in run_processes(work, tmp_path, WORLD):
        assert_all_close(found, expected)
