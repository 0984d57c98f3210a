"""examples/accelerate: accelerate takes each file, and what a job cannot do is refused."""

import math
import os
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from processes import LAUNCH, ROOT
from toy_sounds import CONFIG, EXTRACTOR, write_tones

from uamix_hf import AudioMAEModel
from uamix_hf.fine_tuning import FineTuningArguments
from uamix_hf.training import arguments as training_arguments
from uamix_hf.tuning.recipes import recipe_values, step_clips

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


def test_accelerate_takes_the_file_of_several_machines():
    config = load_config_from_file(str(CONFIGS / "multi_node.yaml"))
    assert (config.distributed_type, config.mixed_precision) == ("MULTI_GPU", "bf16")
    assert (config.num_machines, config.num_processes, config.machine_rank) == (2, 8, 0)
    assert config.use_cpu is False


@pytest.mark.parametrize("way", ["launcher", "argument", "zero 3"])
def test_tuning_refuses_weights_in_parts_and_says_what_to_do(make_args, monkeypatch, way):
    if way == "launcher":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch --config_file fsdp.yaml` sets it
    elif way == "zero 3":
        monkeypatch.setattr(training_arguments, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="multi_gpu.yaml; encoder_batch_size"):
        make_args(fsdp=way == "argument")


@pytest.mark.parametrize("way", ["launcher", "argument", "zero 3"])
def test_fine_tuning_refuses_weights_in_parts_and_says_what_to_do(tmp_path, monkeypatch, way):
    if way == "launcher":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    elif way == "zero 3":
        monkeypatch.setattr(training_arguments, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="Fine-tuning with FSDP.*multi_gpu.yaml"):
        FineTuningArguments(str(tmp_path), use_cpu=True, report_to="none", fsdp=way == "argument")


@pytest.mark.parametrize("processes", [1, 2, 16])
def test_the_gentle_rate_grows_with_the_root_of_the_clips_of_all_processes(monkeypatch, processes):
    """Of the examples in docs/how_to/several_gpus.md, too."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    clips = step_clips(SimpleNamespace(per_device_train_batch_size=64))
    assert clips == 64 * processes
    rate = recipe_values("gentle", clips)["learning_rate"]
    assert rate == pytest.approx(2e-5 * math.sqrt(clips / 24), rel=5e-3)
    assert recipe_values("plastic", clips)["learning_rate"] == 1e-3
    if processes == 16:
        page = (ROOT / "docs" / "how_to" / "several_gpus.md").read_text(encoding="utf-8")
        assert f"{rate * 1e4:.2f}e-4" in page


@pytest.mark.slow
def test_two_launchers_with_the_file_of_several_machines_tune_together(tmp_path):
    """Two machines are two launchers on this one; nccl and bf16 are for GPUs."""
    AudioMAEModel(CONFIG).save_pretrained(tmp_path / "base")
    EXTRACTOR.save_pretrained(tmp_path / "base")
    sounds = write_tones(tmp_path / "sounds", 32)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in (0, 1):
        command = [
            *LAUNCH[:3], "--config_file", CONFIGS / "multi_node.yaml", "--num_processes", 2, "--machine_rank", rank,
            "--main_process_port", port, "--mixed_precision", "no", Path(__file__).parent / "multi_node_tune.py",
            "--model_name_or_path", tmp_path / "base", "--train_dir", sounds, "--output_dir", tmp_path / "run",
            "--use_cpu", "true", "--per_device_train_batch_size", 6, "--head_steps", 1, "--max_steps", 2,
            "--save_strategy", "no", "--guard", "off", "--report_to", "none", "--disable_tqdm", "true",
            "--queue_size", 32, "--topk", 2, "--whiten", "false",
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        log = open(tmp_path / f"{rank}.log", "w")
        started.append(subprocess.Popen(list(map(str, command)), env=environment, stdout=log, stderr=log))
    codes = [process.wait(timeout=300) for process in started]
    logs = [(tmp_path / f"{rank}.log").read_text()[-3000:] for rank in (0, 1)]
    assert codes == [0, 0], logs
    told = [(tmp_path / "run" / f"rank-{rank}.txt").read_text().split() for rank in (0, 1)]
    assert told[0] == told[1]  # the queues agree, too
    world, rate, keys, _ = told[0]
    assert (int(world), float(rate)) == (2, pytest.approx(2e-5 * math.sqrt(12 / 24), rel=5e-3))  # of three digits
    assert int(keys) == 32  # three steps of 12
