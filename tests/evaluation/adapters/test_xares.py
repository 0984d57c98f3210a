"""Encoders meet the contract of X-ARES 0.1.3, https://github.com/jimbozhang/xares, whose checker needs torchaudio."""

from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import slow_but, write_encoder

from uamix_hf import AudioEmbedder
from uamix_hf.evaluation.adapters import xares

TINY = str(Path(__file__).parents[3] / "model_cards" / "audio-mae-tiny")


@pytest.mark.parametrize("kind", slow_but(["whisper", "clap", "wav2vec2", "ssamba"], ["ast", "wav2vec2-bert"]))
def test_an_encoder_meets_the_contract(kind: str, tmp_path: Path) -> None:
    """What `check_audio_encoder` of xares/audio_encoder_checker.py checks, in its numbers."""
    path = str(write_encoder(kind, tmp_path / kind))
    encoder = type("TunedEncoder", (xares.XaresEncoder,), {})(path)
    assert type(encoder).__name__.endswith("Encoder") and isinstance(encoder, torch.nn.Module)
    assert all(hasattr(encoder, name) for name in ("output_dim", "sampling_rate", "hop_size_in_ms"))
    torch.manual_seed(0)
    audio = torch.randn(2, 50_000)
    encoded = encoder(audio)
    assert isinstance(encoded, torch.Tensor) and encoded.ndim == 3
    assert encoded.size(0) == audio.size(0) and encoded.size(2) == encoder.output_dim
    # Its explanation of the hop: input duration / number of frames, but for the end of each window.
    expected = 1000 * audio.shape[1] / encoder.sampling_rate / encoder.hop_size_in_ms
    windows = -(-audio.shape[1] // encoder.embedder.window_samples)
    assert encoded.size(1) == pytest.approx(expected, abs=1 + windows)


def test_frames_are_those_of_the_embedder_also_of_long_clips() -> None:
    encoder, embedder = xares.XaresEncoder(TINY), AudioEmbedder.from_pretrained(TINY)
    audio = 0.1 * torch.randn(2, 12 * 16_000)
    encoded = encoder(audio)
    assert encoded.dtype == torch.float32 and encoder.hop_size_in_ms == pytest.approx(160)
    for clip, frames in zip(audio, encoded, strict=True):
        np.testing.assert_allclose(frames, embedder.encode_frames(clip.numpy()).embeddings, atol=1e-5)
    assert encoder(audio[0]).shape == encoded[:1].shape


def test_a_chosen_layer_is_of_the_embedder() -> None:
    wave = 0.1 * torch.randn(1, 16_000)
    lower = xares.XaresEncoder(TINY, embedding_layer=3)
    assert (lower(wave) - xares.XaresEncoder(TINY)(wave)).abs().max() > 1e-3
    with pytest.raises(OSError):
        xares.XaresEncoder("no/such-folder")


def test_the_file_of_an_encoder_has_one_name_that_ends_in_encoder(tmp_path: Path) -> None:
    """`attr_from_py_path` of xares/utils.py takes the only one; this is the file of the module's docstring."""
    code = xares.__doc__.split("\n\n", 2)[2].partition("    python")[0].replace("\n    ", "\n").strip()
    names: dict[str, object] = {}
    exec(code.replace('"tuned"', repr(TINY)), names)
    assert [name for name in names if name.endswith("Encoder")] == ["TunedEncoder"]
    assert names["TunedEncoder"]().output_dim == 1536  # type: ignore[operator]
