"""Gain on the waveform is gain on the raw features: the encoder's input is the same, for every kind of encoder.

But for log-mels at their floor, or near an offset inside their logarithm: gain on the features raises the floor, too.
Those are bins of digital silence, and mel bins so narrow that no frequency of the FFT is in them.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from all_encoders import CONVERTED, KINDS, domain, write_encoder
from torch.nn import functional as F
from toy_sounds import tones

from uamix_hf import AudioEmbedder
from uamix_hf.data.domains import amplify
from uamix_hf.embedding.encoders import EncoderAdapter

SIX_DB = 10 ** (6 / 20)


def sound(seconds: float, rate: int = 16_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    wave = np.resize(tones(1, level=(0.1, 0.2))[0][0], int(seconds * rate))
    return (wave + 0.05 * rng.standard_normal(len(wave))).astype(np.float32)


def quiet_and_louder(made: Any, wave: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Raw features of a sound, those with gain on the features, and those of the louder sound."""
    plain, louder, silent = made.raw_features([wave, np.float32(SIX_DB) * wave, np.zeros_like(wave)])
    amplified = amplify(plain, torch.tensor(SIX_DB), made.domain)
    if made.domain == "log-mel":
        audible = plain > silent + math.log(5000)
        assert audible.float().mean() > 0.7
        amplified = torch.where(audible, amplified, louder)
    return plain, amplified, louder


@torch.no_grad()
def encoder_input(adapter: EncoderAdapter, features: torch.Tensor, front_end: Any) -> torch.Tensor:
    """What the first module of the encoder is called with."""
    found: list[torch.Tensor] = []

    def record(module: Any, args: Any, kwargs: Any) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if torch.is_tensor(value)]
        found.extend(value.clone() for value in tensors if value.is_floating_point())

    handles = [one.register_forward_pre_hook(record, with_kwargs=True) for one in adapter.base.modules()]
    frames = front_end.whole_patches(len(features))
    values = F.pad(front_end.normalize(features), (0, 0, 0, frames - len(features)), value=front_end.padding_value)
    adapter.encode(values[None], torch.tensor([len(features)]), 0.0, front_end.padding_value)
    for handle in handles:
        handle.remove()
    return found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_gain_gives_every_encoder_the_input_of_a_louder_recording(kind: str, request, tmp_path: Path) -> None:
    fixtures = request.getfixturevalue("fixtures") if kind in CONVERTED else None
    embedder = AudioEmbedder.from_pretrained(str(write_encoder(kind, tmp_path, fixtures)), device="cpu")
    adapter, made = embedder.adapter, embedder.feature_extractor
    assert adapter.domain == made.domain == domain(kind)
    plain, amplified, louder = quiet_and_louder(made, sound(0.9, made.sampling_rate))
    by_features = encoder_input(adapter, amplified, made)
    torch.testing.assert_close(by_features, encoder_input(adapter, louder, made), atol=1e-3, rtol=0)
    moved = (by_features - encoder_input(adapter, plain, made)).abs().max()
    # Clips, or mel bins, that the adapter normalises have the same input at any gain.
    assert (moved < 1e-3) == (kind == "wav2vec2-bert" or (made.domain == "waveform" and made.do_normalize))
