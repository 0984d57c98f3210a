"""Sounds whose classes are easily told apart: a tone of the class's pitch in noise."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from datasets import Array2D, Dataset, Features, Value

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor

PITCHES = (300, 900, 2500)  # Hz
CONFIG = AudioMAEConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, num_mel_bins=32, max_length=64
)  # fmt: skip
EXTRACTOR = AudioMAEFeatureExtractor(num_mel_bins=32, max_length=64, mean=-1.2, std=3.0)

# Fine-tuning of random weights on so few steps learns without what keeps longer runs from overfitting.
PLAIN = {"layer_decay": 1.0, "drop_path_rate": 0.0, "patchout_time_ratio": 0.0, "patchout_mel_ratio": 0.0,
         "time_mask_fraction": 0.0, "mel_mask_fraction": 0.0, "mixup_probability": 0.0}  # fmt: skip


def tones(
    clips: int,
    seed: int = 0,
    detuned: float = 0.1,
    noise: tuple[float, float] = (0.1, 0.5),
    level: tuple[float, float] = (0.02, 0.2),
) -> tuple[list[np.ndarray], np.ndarray]:
    """Waveforms of 0.2 to 0.6 s at 16 kHz and their classes (clips,), one after the other.

    Args:
        detuned: How far a tone's pitch may be from its class's, as a fraction of it.
        noise, level: Between what the noise beside a tone of amplitude 1, and what both are amplified by, are drawn.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(clips) % len(PITCHES)
    waves = []
    for label in labels:
        time = np.arange(int(rng.uniform(0.2, 0.6) * 16_000)) / 16_000
        tone = np.sin(2 * np.pi * PITCHES[label] * rng.uniform(1 - detuned, 1 + detuned) * time + rng.uniform(0, 6))
        beside = rng.normal(0, rng.uniform(*noise), len(time))
        waves.append((rng.uniform(*level) * (tone + beside)).astype(np.float32))
    return waves, labels


def write_tones(folder: Path, clips: int) -> Path:
    """The waveforms as WAV files of a new folder, in its order."""
    folder.mkdir()
    for number, wave in enumerate(tones(clips)[0]):
        soundfile.write(folder / f"{number:02d}.wav", wave, 16_000)
    return folder


def log_mels(waves: list[np.ndarray], extractor: Any = EXTRACTOR) -> Dataset:
    """What `cached_features` gives, by a front end."""
    mels = [mel.numpy().astype(np.float16) for mel in extractor.raw_features(waves)]
    columns = {"features": mels, "length": [len(mel) for mel in mels], "sample_id": list(range(len(mels)))}
    features = Features(
        features=Array2D((None, mels[0].shape[1]), "float16"), length=Value("int32"), sample_id=Value("int64")
    )
    return Dataset.from_dict(columns, features=features).with_format("torch")
