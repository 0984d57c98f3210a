"""Models, batches and data sets small enough that the whole method runs in milliseconds."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Array2D, Dataset, Features, Value
from transformers import set_seed

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.tuning import UaMixForContrastiveTuning

MEL = 32
SMALL = {"projector_hidden_size": 24, "projection_size": 16, "predictor_hidden_size": 32, "queue_size": 12, "topk": 1}


@pytest.fixture
def extractor() -> AudioMAEFeatureExtractor:
    return AudioMAEFeatureExtractor(num_mel_bins=MEL, max_length=96)


@pytest.fixture
def make_model(encoder_config: AudioMAEConfig) -> Callable[..., UaMixForContrastiveTuning]:
    """`make_model(seed=0, encoder=None, **config)`: an untrained model, its heads small unless said otherwise."""

    def make(seed: int = 0, encoder: Any = None, **config: Any) -> UaMixForContrastiveTuning:
        set_seed(seed)
        encoder = AudioMAEModel(encoder_config) if encoder is None else encoder
        return UaMixForContrastiveTuning.from_encoder(encoder, **{**SMALL, **config})

    return make


def log_mel(frames: int, mel: int, generator: np.random.Generator) -> np.ndarray:
    """Noise of the level and spread of real log-mels, with a slow melody so that clips differ as wholes."""
    melody = 3 * np.sin(generator.uniform(0.05, 0.5) * np.arange(frames)[:, None] + generator.uniform(0, 3, mel))
    return (melody + generator.normal(-4, 2, (frames, mel))).astype(np.float16)


@pytest.fixture
def make_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """`make_batch(lengths, seed=0, mel=32)`: what the collator gives, with padding of 0."""

    def make(lengths: Sequence[int], seed: int = 0, mel: int = MEL) -> dict[str, torch.Tensor]:
        generator = np.random.default_rng(seed)
        frames = -(-max(lengths) // 16) * 16
        values = torch.zeros(len(lengths), frames, mel)
        for row, length in enumerate(lengths):
            values[row, :length] = torch.from_numpy(log_mel(length, mel, generator)).float()
        mask = (torch.arange(frames) < torch.tensor(lengths)[:, None]).long()
        return {"input_values": values, "attention_mask": mask, "sample_id": torch.arange(len(lengths))}

    return make


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    """`make_dataset(lengths, seed=0, mel=32, labels=None)`: what `cached_features` gives."""

    def make(lengths: Sequence[int], seed: int = 0, mel: int = MEL, labels: Sequence[int] | None = None) -> Dataset:
        generator = np.random.default_rng(seed)
        columns: dict[str, Any] = {
            "features": [log_mel(length, mel, generator) for length in lengths],
            "length": list(lengths),
            "sample_id": list(range(len(lengths))),
        }
        features = {
            "features": Array2D((None, mel), "float16"),
            "length": Value("int32"),
            "sample_id": Value("int64"),
        }
        if labels is not None:
            columns["labels"], features["labels"] = list(labels), Value("int64")
        return Dataset.from_dict(columns, features=Features(features)).with_format("torch")

    return make
