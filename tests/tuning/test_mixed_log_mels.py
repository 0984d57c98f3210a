"""Mixing log-mels, then encoding, is encoding the mixed input that the encoder's own feature extractor gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from all_encoders import CONVERTED, slow_but, write_encoder
from torch.nn import functional as F
from transformers import AutoFeatureExtractor

from uamix_hf import UaMixForContrastiveTuning
from uamix_hf.embedding import load_encoder, load_feature_extractor
from uamix_hf.tuning import mixing

HEADS = {"projector_hidden_size": 8, "projection_size": 8, "predictor_hidden_size": 8, "queue_size": 0}
FAST = ("beats", "passt", "mae_ast", "ssamba", "clap", "wav2vec2-bert")
WHOLE = ("clap", "qwen2_audio_encoder", "birdmae")  # these pad shorter clips, which others take as they are


def own_input(kind: str, own: Any, wave: np.ndarray) -> torch.Tensor:
    """Log-mels (frames, mel bins) of one clip, before Wav2Vec2-BERT's normalisation, which is of the mixture."""
    options: dict[str, Any] = {"do_normalize_per_mel_bins": False} if kind == "wav2vec2-bert" else {}
    found = own(wave, sampling_rate=own.sampling_rate, return_tensors="pt", **options)
    values = next(found[name] for name in ("input_values", "input_features") if name in found)[0]
    match kind:
        case "clap":
            return values[0]
        case "wav2vec2-bert":  # two frames a token
            return values.unflatten(1, (2, -1)).flatten(0, 1)
        case "qwen2_audio_encoder":
            return values.T
    return values


def embedding(kind: str, plain: Any, values: torch.Tensor) -> torch.Tensor:
    """By the encoder's own class, of an input as that of `own_input`."""
    match kind:
        case "clap":
            return plain(input_features=values[None, None]).pooler_output[0]
        case "wav2vec2-bert":
            values = (values - values.mean(0)) / (values.var(0) + 1e-7).sqrt()
            tokens = values[: len(values) // 2 * 2].unflatten(0, (-1, 2)).flatten(1)
            return plain(input_features=tokens[None]).last_hidden_state[0].mean(0)
        case "qwen2_audio_encoder":
            return plain(values.T[None].contiguous()).last_hidden_state[0].mean(0)
    return plain(input_values=values[None].contiguous()).pooler_output[0]


@pytest.mark.parametrize("mix", ["t-cutmix", "mixup"])
@pytest.mark.parametrize("kind", slow_but(FAST, [*CONVERTED, "clap", "wav2vec2-bert", "qwen2_audio_encoder"]))
@torch.no_grad()
def test_a_mixture_has_the_embedding_of_the_mixed_input(kind: str, mix: str, request, tmp_path: Path) -> None:
    write_encoder(kind, tmp_path, request.getfixturevalue("fixtures") if kind in CONVERTED else None)
    front_end, own = load_feature_extractor(tmp_path), AutoFeatureExtractor.from_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    plain = type(encoder).from_pretrained(tmp_path).eval()
    statistics = {f"input_{name}": getattr(front_end, name) for name in ("mean", "std", "std_factor")}
    model = UaMixForContrastiveTuning.from_encoder(encoder, mix=mix, **statistics, **HEADS).eval()
    frames = front_end.max_length if kind in WHOLE else front_end.whole_patches(112)
    waves = 0.1 * np.random.default_rng(0).standard_normal((2, front_end.samples(frames))).astype(np.float32)
    waves[1] += 0.9 * np.roll(waves[1], 1)  # of another colour, and nowhere 80 dB below, where Whisper cuts off

    inside, outside = (0.0, 1.0) if mix == "t-cutmix" else (0.7, 0.7)
    inputs = [own_input(kind, own, wave) for wave in waves]
    weight = torch.full((len(inputs[0]), 1), outside)
    segment = slice(len(weight) // 4, len(weight) * 3 // 4)
    weight[segment] = inside
    mixed = weight * inputs[0] + (1 - weight) * inputs[1]
    expected, *others = (embedding(kind, plain, values) for values in (mixed, *inputs))

    raw = torch.stack(front_end.raw_features(list(waves)))[:, : len(mixed)]
    length = raw.shape[1]
    raw = F.pad(raw, (0, 0, 0, front_end.whole_patches(length) - length))
    mix_mask = torch.full((2, raw.shape[1], 1), outside)
    mix_mask[:, segment] = inside
    mixture = mixing.mix(model.normalize(raw), torch.tensor([1, 0]), mix_mask)
    (found,), _ = model.embed([mixture], torch.tensor([length, length]))
    error = (found[0] - expected).abs().max()
    assert error < 1e-4 * expected.abs().max()
    assert all((expected - other).abs().max() > 100 * error for other in others)
