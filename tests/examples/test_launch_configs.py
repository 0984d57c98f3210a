"""examples/accelerate: accelerate takes each file, and tuning refuses what it cannot do."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from uamix_hf.training import arguments as training_arguments

CONFIGS = Path(__file__).parents[2] / "examples" / "accelerate"


@pytest.mark.parametrize(
    "name, kind, precision",
    [("multi_gpu", "MULTI_GPU", "bf16"), ("deepspeed_zero2", "DEEPSPEED", "no"), ("fsdp", "FSDP", "bf16")],
)
def test_accelerate_takes_the_file(name, kind, precision):
    """It refuses keys that it does not know."""
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert (config.distributed_type, config.mixed_precision, config.num_processes) == (kind, precision, 4)
    assert config.use_cpu is False


@pytest.mark.parametrize("way", ["launcher", "argument", "zero 3"])
def test_tuning_refuses_weights_in_parts_and_says_what_to_do(make_args, monkeypatch, way):
    if way == "launcher":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch --config_file fsdp.yaml` sets it
    elif way == "zero 3":
        monkeypatch.setattr(training_arguments, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="multi_gpu.yaml; encoder_batch_size"):
        make_args(fsdp=way == "argument")
