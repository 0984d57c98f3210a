"""Models, clips and trainers small enough that pretraining takes milliseconds a step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from toy_sounds import EXTRACTOR, log_mels, tones
from transformers import set_seed

from uamix_hf import AudioMAEConfig, AudioMAEForPreTraining
from uamix_hf.pretraining import PretrainingArguments, PretrainingTrainer

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "num_mel_bins": 32,
    "max_length": 64, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def clips() -> Dataset:
    """40 cached clips of 18 to 58 frames."""
    return log_mels(tones(40)[0])


@pytest.fixture
def make_model() -> Callable[..., AudioMAEForPreTraining]:
    def make(**config: Any) -> AudioMAEForPreTraining:
        set_seed(0)
        return AudioMAEForPreTraining(AudioMAEConfig(**{**SMALL, **config}))

    return make


@pytest.fixture
def make_args(tmp_path: Path) -> Callable[..., PretrainingArguments]:
    def make(**fields: Any) -> PretrainingArguments:
        quiet = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
                 "per_device_train_batch_size": 8, "max_steps": 2, "logging_steps": 1}  # fmt: skip
        return PretrainingArguments(**{**quiet, **fields})

    return make


@pytest.fixture
def make_trainer(make_model, make_args, clips) -> Callable[..., PretrainingTrainer]:
    """`make_trainer(model=None, train=20 clips, held_out=20 others, **arguments)`"""

    def make(model=None, train=None, held_out=None, **fields: Any) -> PretrainingTrainer:
        train = clips.select(range(20)) if train is None else train
        held_out = clips.select(range(20, 40)) if held_out is None else held_out
        return PretrainingTrainer(model or make_model(), make_args(**fields), train, EXTRACTOR, held_out)

    return make
