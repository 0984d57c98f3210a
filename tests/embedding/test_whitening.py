"""Whitened embeddings have unit covariance over the clips they were fitted to, wherever the encoder is loaded."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.decomposition import PCA
from toy_sounds import CONFIG, EXTRACTOR, log_mels, tones
from transformers import AutoModel

from uamix_hf import AudioEmbedder, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel, fit_whitening
from uamix_hf.data import DataArguments, prepare
from uamix_hf.embedding.whitening import whitening_of


def test_whitened_vectors_are_principal_components_of_unit_variance() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((6, 6)) * [10, 3, 1, 0.3, 0.1, 0.05]
    vectors = rng.standard_normal((500, 6)) @ mixing + 100
    for size in (6, 4):
        mean, matrix = whitening_of(vectors, size, shrinkage=0)
        white = (vectors - mean) @ matrix
        np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(size), atol=1e-6)
        peer = PCA(size, whiten=True).fit_transform(vectors)
        np.testing.assert_allclose(white * np.sign(white[0]), peer * np.sign(peer[0]), atol=1e-5)


def test_shrinkage_bounds_what_a_direction_without_spread_is_scaled_by() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 4)) * [2, 1, 1, 0]
    _, matrix = whitening_of(vectors, 4, shrinkage=0.01)
    variance = np.cov(vectors, rowvar=False).trace() / 4
    assert np.linalg.norm(matrix, axis=0).max() == pytest.approx((0.01 * variance) ** -0.5)
    mean, matrix = whitening_of(vectors[:3], 4)  # fewer than dimensions: finite all the same
    assert np.isfinite((vectors - mean) @ matrix).all()


@pytest.mark.parametrize("vectors", [np.ones((1, 4)), np.ones((9, 4)), np.full((9, 4), np.nan)])
def test_vectors_that_tell_nothing_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(ValueError, match="embeddings"):
        whitening_of(vectors, 4)


@pytest.mark.parametrize("size", [0, 5])
def test_a_size_that_the_vectors_do_not_have_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size={size}"):
        whitening_of(np.random.default_rng(0).standard_normal((9, 4)), size)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "sounds"
    folder.mkdir()
    for number in range(60):
        time = np.arange(8000 + 200 * number) / 16_000
        tone = np.sin(2 * np.pi * rng.uniform(100, 4000) * time) * np.exp(-time * rng.uniform(0, 9))
        soundfile.write(folder / f"{number:02}.wav", 0.3 * tone + 0.02 * rng.standard_normal(len(time)), 16_000)
    return folder


@pytest.mark.parametrize("pooling", ["mean", "mean_time"])
def test_an_encoder_keeps_its_whitening_when_saved(sounds: Path, tmp_path: Path, pooling: str) -> None:
    torch.manual_seed(0)
    config = AudioMAEConfig.preset("tiny", hidden_size=16, num_hidden_layers=2, num_attention_heads=2, pooling=pooling)
    plain, extractor = AudioMAEModel(config), AudioMAEFeatureExtractor()
    paths = sorted(str(path) for path in sounds.iterdir())
    before = AudioEmbedder(plain, extractor).encode(paths, progress_bar=False)
    data = prepare(DataArguments(train_dir=str(sounds), cache_dir=str(tmp_path / "cache")), extractor)
    fit_whitening(plain, extractor, data.dataset, size=16)
    plain.save_pretrained(tmp_path / "model")
    loaded = AutoModel.from_pretrained(tmp_path / "model")
    assert loaded.config.whitening_size == loaded.config.embedding_size == 16
    after = AudioEmbedder(loaded, extractor).encode(paths, progress_bar=False)
    mean, matrix = whitening_of(before, 16)
    expected = (before - mean) @ matrix
    # Directions have no sign, and log-mels were float16 here, float32 there.
    sign = np.sign((after * expected).sum(axis=0))
    np.testing.assert_allclose(after * sign, expected, atol=0.05)
    np.testing.assert_allclose(after.mean(axis=0), 0, atol=0.02)
    fit_whitening(loaded, extractor, data.dataset, size=16)  # again: from the pooled output, not from what was whitened
    again, first = loaded.whitening.matrix, plain.whitening.matrix
    torch.testing.assert_close(again @ again.T, first @ first.T, rtol=1e-3, atol=1e-3)


def test_whitening_is_exact_under_autocast(tmp_path: Path) -> None:
    config = AudioMAEConfig.preset(
        "tiny", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, whitening_size=16
    )
    model = AudioMAEModel(config).eval()
    basis = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).Q
    model.whitening.matrix.copy_(basis @ torch.diag(torch.logspace(0, 3, 16)) @ basis.T)
    pooled = torch.randn(5, 16)
    expected = (pooled.double() @ model.whitening.matrix.double()).float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.whitening(pooled), expected, rtol=1e-4, atol=1e-2)


def test_without_fitting_it_changes_nothing(tmp_path: Path) -> None:
    config = AudioMAEConfig.preset("tiny", hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    plain = AudioMAEModel(config).eval()
    plain.save_pretrained(tmp_path)
    config.whitening_size = 16
    model = AudioMAEModel.from_pretrained(tmp_path, config=config).eval()  # its tensors are not in the file
    inputs = torch.randn(2, 32, 128)
    torch.testing.assert_close(model(inputs).pooler_output, plain(inputs).pooler_output)


def test_other_encoders_are_refused() -> None:
    with pytest.raises(TypeError, match="Linear"):
        fit_whitening(torch.nn.Linear(2, 2), AudioMAEFeatureExtractor(), None)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("one clip", ValueError),
        ("no clip", ValueError),
        ("too wide", ValueError),
        ("size 0", ValueError),
        ("NaN", ValueError),
        ("alike", ValueError),
        ("stopped", KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("whitened", [False, True])
def test_after_an_error_the_encoder_is_as_it_was(
    fault: str, error: type, whitened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = CONFIG.hidden_size
    size = width if whitened else 0
    torch.manual_seed(0)
    model = AudioMAEModel(AudioMAEConfig(**CONFIG.to_dict() | {"whitening_size": size})).train()
    if whitened:
        model.whitening.matrix.copy_(torch.randn(width, width))
    clips = log_mels(tones(5)[0])
    before, layer = {name: value.clone() for name, value in model.state_dict().items()}, model.whitening
    given = {"one clip": 1, "no clip": 0}.get(fault, 5)
    rows = clips.select([0] * 5) if fault == "alike" else clips.select(range(given))
    if fault == "NaN":
        monkeypatch.setattr(model.layernorm, "forward", lambda hidden: hidden * torch.nan)
    if fault == "stopped":

        def stop(*args: object, **kwargs: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(model.layers[-1], "forward", stop)
    with pytest.raises(error):
        fit_whitening(model, EXTRACTOR, rows, size={"too wide": width + 1, "size 0": 0}.get(fault), batch_size=2)
    assert model.whitening is layer and model.training
    assert model.config.whitening_size == size and model.config.embedding_size == width
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
