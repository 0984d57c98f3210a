"""The embedder against the model run by hand; a vector depends on its recording alone."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from uamix_hf import (
    AudioDecodeError,
    AudioEmbedder,
    AudioInputError,
    AudioMAEConfig,
    AudioMAEFeatureExtractor,
    AudioMAEModel,
)

RATE = 16_000
WINDOW = 127 * 160 + 400  # samples of 128 whole frames


@pytest.fixture(scope="module")
def embedder() -> AudioEmbedder:
    torch.manual_seed(0)
    config = AudioMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_length=128
    )
    model = AudioMAEModel(config)
    # Fresh weights hardly tell one clip from another; these do.
    torch.nn.init.normal_(model.embeddings.patch_embeddings.projection.weight, std=0.2)
    return AudioEmbedder(model, AudioMAEFeatureExtractor(max_length=128))


def clip(samples: int, seed: int = 0) -> np.ndarray:
    """Noise whose colour and level change along the way."""
    noise = np.random.default_rng(seed).standard_normal(samples + 8)
    smooth = np.convolve(noise, np.ones(9) / 9, "valid")
    return (0.3 * np.linspace(0.05, 1, samples) * (smooth + np.linspace(0, 1, samples) * noise[8:])).astype(np.float32)


def by_hand(embedder: AudioEmbedder, wave: np.ndarray) -> tuple[np.ndarray, int]:
    """Vector and frames of one window, alone and without padding of frames that count."""
    inputs = embedder.feature_extractor(wave, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        return embedder.model(**inputs).pooler_output[0].double().numpy(), int(inputs["attention_mask"].sum())


@pytest.mark.parametrize(("tail", "tail_frames"), [(0, ()), (399, ()), (400, (1,)), (9000, (54,))])
def test_a_long_recording_is_the_mean_of_its_windows_by_frames(embedder: AudioEmbedder, tail, tail_frames) -> None:
    wave = clip(3 * WINDOW + tail)
    starts = range(0, (3 + len(tail_frames)) * WINDOW, WINDOW)  # a tail of less than a frame says nothing
    vectors, frames = zip(*(by_hand(embedder, wave[start : start + WINDOW]) for start in starts), strict=True)
    assert frames == (128, 128, 128, *tail_frames)
    expected = np.average(vectors, axis=0, weights=frames)
    vector = embedder.encode(wave)
    assert vector.shape == (32,) and vector.dtype == np.float32
    np.testing.assert_allclose(vector, expected, atol=1e-5)
    if tail_frames:  # the weights are seen
        assert np.abs(expected - np.mean(vectors, axis=0)).max() > 1e-4


def test_a_vector_depends_neither_on_its_batch_nor_on_the_order(embedder: AudioEmbedder) -> None:
    seconds = [25, 0.03, 7, 1.28, 0.5, 0.001, 1.9, 3]
    clips = [clip(round(RATE * length), seed) for seed, length in enumerate(seconds)]
    alone = np.stack([embedder.encode(wave) for wave in clips])
    assert np.isfinite(alone).all()
    distance = np.linalg.norm(alone[:, None] - alone[None], axis=-1)
    assert distance[~np.eye(len(clips), dtype=bool)].min() > 1e-2  # or else all would agree with all
    for batch_size in (1, 3, 32):
        vectors = embedder.encode(clips, batch_size=batch_size, progress_bar=False)
        np.testing.assert_allclose(vectors, alone, atol=1e-5)
        backwards = embedder.encode(clips[::-1], batch_size=batch_size, progress_bar=False)
        np.testing.assert_allclose(backwards[::-1], alone, atol=1e-5)


def test_whole_windows_wait_for_no_more_than_their_batch(
    embedder: AudioEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [WINDOW, 400, WINDOW, WINDOW, 300, WINDOW, 200, WINDOW]
    read: list[int] = []

    def windows(inputs: object) -> Iterator[tuple[int, np.ndarray]]:
        for index, length in enumerate(lengths):
            read.append(index)
            yield index, clip(length)

    monkeypatch.setattr(embedder, "windows", windows)
    seen = [([index for index, _ in batch], len(read)) for batch in embedder.batches([None] * 8, 2)]
    assert seen == [([0, 2], 3), ([3, 5], 6), ([6, 4], 8), ([1, 7], 8)]


def test_padding_is_masked_even_if_the_extractor_is_saved_without_a_mask(embedder: AudioEmbedder) -> None:
    silent = AudioEmbedder(embedder.model, AudioMAEFeatureExtractor(max_length=128, return_attention_mask=False))
    clips = [clip(WINDOW), clip(5000, 1)]
    np.testing.assert_allclose(silent.encode(clips), embedder.encode(clips), atol=1e-6)


def test_one_recording_in_any_form(embedder: AudioEmbedder, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    wave = clip(30_000)
    soundfile.write(path, wave, RATE, subtype="FLOAT")
    data = path.read_bytes()
    expected = embedder.encode([wave])
    assert expected.shape == (1, 32)
    forms = [path, str(path), data, io.BytesIO(data), {"bytes": data, "path": None}, wave, torch.from_numpy(wave)]
    for form in [*forms, {"array": wave, "sampling_rate": RATE}]:
        np.testing.assert_array_equal(embedder.encode(form), expected[0])
    several = embedder.encode([path, wave, {"bytes": data, "path": None}], progress_bar=False)
    np.testing.assert_allclose(several, np.repeat(expected, 3, axis=0), atol=1e-5)
    assert embedder.encode([]).shape == (0, 32)


def test_two_axes_are_clips_never_channels(embedder: AudioEmbedder) -> None:
    clips = np.stack([clip(5000), clip(5000, 1)])
    separate = np.stack([embedder.encode(wave) for wave in clips])
    np.testing.assert_allclose(embedder.encode(clips), separate, atol=1e-5)
    with pytest.raises(AudioInputError, match="average channels"):
        embedder.encode(clips.T)


def test_other_rates_are_resampled(embedder: AudioEmbedder) -> None:
    time = np.arange(2 * 48_000) / 48_000
    sound = np.sin(2 * np.pi * 500 * time * (1 + time)) * 0.3
    low = {"array": sound[::3], "sampling_rate": RATE}  # nothing above 8 kHz, so that every third sample is the sound
    vectors = embedder.encode([{"array": sound, "sampling_rate": 48_000}, low])
    assert np.linalg.norm(vectors[0] - vectors[1]) < 0.05 * np.linalg.norm(vectors[0])


def test_errors_name_the_recording(embedder: AudioEmbedder, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.wav", tmp_path / "bad one.wav"
    soundfile.write(good, clip(3000), RATE)
    bad.write_text("no sound")
    for source in (bad, {"bytes": bad.read_bytes(), "path": "bad one.wav"}, tmp_path / "bad one.flac"):
        with pytest.raises(AudioDecodeError, match="bad one"):
            embedder.encode([good, source, good])
    with pytest.raises(AudioInputError, match="bad one"):
        embedder.encode({"array": np.full(900, np.nan), "sampling_rate": RATE, "path": "bad one.wav"})


def test_a_saved_folder_embeds_alike(embedder: AudioEmbedder, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "encoder"
    embedder.model.save_pretrained(folder)
    embedder.feature_extractor.save_pretrained(folder)
    expected = embedder.encode(clip(30_000))
    loaded = AudioEmbedder.from_pretrained(str(folder), device="cpu")
    assert not loaded.model.training
    np.testing.assert_array_equal(loaded.encode(clip(30_000)), expected)
    # Where to find the folder is told once, for the model and for its feature extractor.
    loaded = AudioEmbedder.from_pretrained(str(folder.parent), device="cpu", subfolder="encoder")
    np.testing.assert_array_equal(loaded.encode(clip(30_000)), expected)
    half = AudioEmbedder.from_pretrained(str(folder), device="cpu", dtype=torch.bfloat16).encode(clip(30_000))
    assert half.dtype == np.float32
    assert np.linalg.norm(half - expected) < 0.05 * np.linalg.norm(expected)
