"""Mixing then encoding is encoding the mixed input, which the plain transformers model gets from the cut waveform."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from all_encoders import WAVEFORMS, as_published, make_encoder, slow_but, write_encoder
from torch.nn import functional as F
from transformers import AutoFeatureExtractor, AutoModel

from uamix_hf import UaMixForContrastiveTuning
from uamix_hf.embedding import load_encoder, load_feature_extractor
from uamix_hf.tuning import mixing

LOG_MELS = ("audio_mae", "ast", "whisper")
KINDS = [*LOG_MELS, *slow_but(("wav2vec2", "wav2vec2-layer-norm", "wavlm", "sew"), WAVEFORMS)]
FRAMES = 96
# Log-mels have whole windows alone; Whisper's plain encoder takes 30 s, no less.
SAMPLES = {"audio_mae": 64 * 160 + 240, "ast": 128 * 160 + 240, "whisper": 480_000}
SEGMENT = {"whisper": (640, 2240), "audio_mae": (16, 48)}  # pasted, in frames; of others:
CUTS = (32, 64)
HEADS = {"projector_hidden_size": 8, "projection_size": 8, "predictor_hidden_size": 8, "queue_size": 0}


def sounds(kind: str) -> np.ndarray:
    """Two clips (2, samples) of noise; for log-mels of zero mean, and silent around the cuts, which windows overlap."""
    samples = SAMPLES.get(kind, FRAMES * 160)
    waves = 0.1 * np.random.default_rng(0).standard_normal((2, samples)) * np.array([[1.0], [2.0]])
    if kind in LOG_MELS:
        start, end = (160 * cut for cut in SEGMENT.get(kind, CUTS))
        for cut in (start, end):
            waves[:, cut - 480 : cut + 480] = 0
        for part in (slice(0, start), slice(start, end), slice(end, samples)):
            loud = waves[:, part] != 0
            waves[:, part] -= loud * waves[:, part].sum(1, keepdims=True) / loud.sum(1, keepdims=True)
    return waves.astype(np.float32)


class Encoder:
    """An encoder in a folder: the package's way, from clips to the embedding of a mixture, and transformers'."""

    def __init__(self, kind: str, mix: str, folder: Path):
        write_encoder(kind, folder)
        self.made: Any = load_feature_extractor(folder)
        self.own = AutoFeatureExtractor.from_pretrained(folder)
        self.plain = AutoModel.from_pretrained(folder).eval()
        self.kind = kind
        statistics = {f"input_{name}": getattr(self.made, name) for name in ("mean", "std", "std_factor")}
        encoder = load_encoder(folder)
        encoder.config.do_normalize = getattr(self.made, "do_normalize", None)
        self.model = UaMixForContrastiveTuning.from_encoder(encoder, mix=mix, **statistics, **HEADS).eval()
        self.model.adapter.check_fit(self.made)

    def mixture(self, waves: np.ndarray, inside: float, outside: float) -> torch.Tensor:
        """The embedding of a mixture; the first clip has these weights inside and outside of the segment."""
        raw = torch.stack(self.made.raw_features(list(waves)))[:, : self.model.adapter.max_frames]
        length = raw.shape[1]
        raw = F.pad(raw, (0, 0, 0, self.made.whole_patches(length) - length))
        mix_mask = torch.full((2, raw.shape[1], 1), outside)
        mix_mask[:, slice(*SEGMENT.get(self.kind, CUTS))] = inside
        mixture = mixing.mix(self.model.normalize(raw), torch.tensor([1, 0]), mix_mask)
        pooled, _ = self.model.embed([mixture], torch.full((2,), length))
        return pooled[0, :1]

    def inputs(self, wave: np.ndarray) -> Any:
        return self.own(wave, sampling_rate=16_000, return_tensors="pt", return_attention_mask=False)

    def embedding(self, inputs: Any) -> torch.Tensor:
        """Of transformers alone."""
        if self.kind == "whisper":
            return self.plain.encoder(**inputs).last_hidden_state.mean(1)
        output = self.plain(**inputs)
        return output.last_hidden_state.mean(1) if self.kind in WAVEFORMS else output.pooler_output


def assert_same(found: torch.Tensor, expected: torch.Tensor, others: list[torch.Tensor]) -> None:
    """Equal to 1e-3 of how far the clips themselves are from the mixture, and to 1e-4 of the scale."""
    error = (found - expected).abs().max()
    assert error < 1e-4 * expected.abs().max()
    assert all((found - other).abs().max() > 1e3 * error for other in others)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_t_cutmix_is_the_embedding_of_the_cut_waveform(kind: str, tmp_path: Path) -> None:
    encoder, waves = Encoder(kind, "t-cutmix", tmp_path), sounds(kind)
    cut, (start, end) = waves[0].copy(), SEGMENT.get(kind, CUTS)
    cut[160 * start : 160 * end] = waves[1, 160 * start : 160 * end]
    expected, *others = (encoder.embedding(encoder.inputs(wave)) for wave in (cut, *waves))
    assert_same(encoder.mixture(waves, 0.0, 1.0), expected, others)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_mixup_is_the_embedding_of_the_weighted_sum(kind: str, tmp_path: Path) -> None:
    """Of waveforms; or of log-mels, here of noise, which span less than the 80 dB below which Whisper cuts them off."""
    encoder = Encoder(kind, "mixup", tmp_path)
    waves = 0.1 * np.random.default_rng(1).standard_normal((2, SAMPLES.get(kind, FRAMES * 160))).astype(np.float32)
    waves[1] = np.diff(waves[1], append=0)
    inputs, other = (encoder.inputs(wave) for wave in waves)
    others = [encoder.embedding(one) for one in (inputs, other)]
    if kind in WAVEFORMS:
        inputs = encoder.inputs(np.float32(0.7) * waves[0] + np.float32(0.3) * waves[1])
    else:
        name = encoder.model.adapter.input_name
        inputs[name] = 0.7 * inputs[name] + 0.3 * other[name]
    assert_same(encoder.mixture(waves, 0.7, 0.7), encoder.embedding(inputs), others)


@pytest.mark.parametrize("kind, size, stride", [("wav2vec2", 3, 2), ("sew", 5, 4)])
def test_lambda_of_waveforms_counts_the_tokens_of_the_clip(kind: str, size: int, stride: int) -> None:
    """By hand, of the convolutions of published models, whose tokens overlap: 400 samples each 320, and SEW's."""
    encoder = make_encoder(kind, **as_published(kind), do_normalize=False)
    model = UaMixForContrastiveTuning.from_encoder(encoder, **HEADS).train()
    adapter = model.adapter
    assert (adapter.patch_shape, adapter.strides) == ((size, 160), (stride, 160))
    views, lengths = 0.1 * torch.randn(2, 4, FRAMES, 160), torch.tensor([96, 61, 96, 80])
    mix_mask = torch.ones(4, FRAMES, 1)
    mix_mask[0, 16:48], mix_mask[1, 32:48], mix_mask[2, :16], mix_mask[3, :] = 0, 0, 0, 0.6
    output = model.contrast(*views, lengths, torch.arange(4), torch.tensor([1, 2, 3, 0]), [mix_mask])
    expected = []
    for row, length in enumerate(lengths.tolist()):
        starts = [start for start in range(0, FRAMES, stride) if start + size <= length]
        with torch.no_grad():
            hidden = encoder(views[0, :1, :length].flatten(1), output_hidden_states=True)
        assert len(starts) == hidden.hidden_states[1].shape[1]  # as many as the layers have
        expected.append(np.mean([mix_mask[row, start : start + size, 0].mean() for start in starts]))
    assert output.mix_lambda.item() == pytest.approx(np.mean(expected), abs=1e-6)
    # A segment inside the clip takes as many tokens as fit into it: what one end takes more, the other takes less.
    tokens = len(range(0, FRAMES - size + 1, stride))
    assert expected[0] == pytest.approx(1 - 32 / stride / tokens)
    assert 16 % stride == 0 and model.config.mix_align % stride == 0  # tokens begin where mixtures are cut
