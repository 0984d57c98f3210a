"""The settings of an embedding are in files of their own, and nothing of them is read or lost silently."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor, AutoModel

from uamix_hf import AudioMAEConfig, AudioMAEModel
from uamix_hf.embedding import (
    EmbeddingConfigError,
    EmbeddingSettings,
    EncoderAdapter,
    load_encoder,
    make_adapter,
    register_encoder,
    save_encoder,
)
from uamix_hf.embedding.kinds import ADAPTERS, make_front_end, settings_of


def clips(*samples: int) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [0.1 * random.standard_normal(count, np.float32) for count in samples]


def test_asts_mean_is_over_the_patches_with_audio(make_ast) -> None:
    encoder = make_ast().eval()
    encoder.embedding_settings = EmbeddingSettings(pooling="mean")
    adapter, values = make_adapter(encoder), torch.randn(2, 128, 128)
    with torch.no_grad():
        embeddings, _ = adapter.encode(values, torch.tensor([128, 37]), 0.0, 0.5)
        values[1, 37:] = 0.5
        tokens = encoder(values).last_hidden_state[:, 2:].unflatten(1, (12, 12))  # (mel, time)
    torch.testing.assert_close(embeddings[0], tokens[0].mean((0, 1)))
    # Patch t > 0 is the first to cover frames 10 t + 6 to 10 t + 15: frame 36 is the first of patch 3.
    torch.testing.assert_close(embeddings[1], tokens[1, :, :4].mean((0, 1)))


def test_asts_own_feature_extractor_is_reproduced(make_ast) -> None:
    own = ASTFeatureExtractor(max_length=128, mean=-3.0, std=2.0)
    ours = make_front_end(make_ast().config, own)
    for wave in clips(9000, 30_000):
        theirs = own(wave, sampling_rate=16_000, return_tensors="pt").input_values
        made = ours(wave, sampling_rate=16_000, padding="max_length", return_tensors="pt")["input_values"]
        torch.testing.assert_close(made, theirs, atol=1e-3, rtol=0)


def test_gain_on_the_waveform_is_gain_on_asts_log_mel(make_ast) -> None:
    own = ASTFeatureExtractor(max_length=128)
    ours = make_front_end(make_ast().config, own)
    (wave,) = clips(20_000)
    louder = own(2 * wave, sampling_rate=16_000, return_tensors="pt").input_values[0]
    raw = ours.log_mels([wave])[0]
    heard = raw.amax(0) > math.log(ours.mel_floor) + 1  # the narrowest mel filter has no frequency in it
    assert heard.sum() == 127
    made = ours.normalize(raw + 2 * math.log(2))
    torch.testing.assert_close(made[:, heard], louder[: len(made), heard], atol=1e-3, rtol=0)


def test_audio_mae_chooses_by_its_own_fields(tmp_path: Path) -> None:
    config = AudioMAEConfig.preset("tiny", num_hidden_layers=3, max_length=96, whitening_size=7)
    model = AudioMAEModel(config).eval()
    save_encoder(model, tmp_path)
    assert not (tmp_path / "embedding_config.json").exists()
    values = torch.randn(1, 96, 128)
    loaded = load_encoder(tmp_path).state_dict()
    for name, value in AutoModel.from_pretrained(tmp_path).state_dict().items():
        assert torch.equal(loaded[name], value), name
    chosen = load_encoder(tmp_path, layer=2, pooling="cls").eval()
    assert (chosen.config.num_hidden_layers, chosen.config.pooling, chosen.config.embedding_size) == (2, "cls", 192)
    hidden: list = []
    model.layers[1].register_forward_hook(lambda module, args, output: hidden.append(output))
    with torch.no_grad():
        model(values)
        states = hidden[0][0] if isinstance(hidden[0], tuple) else hidden[0]
        torch.testing.assert_close(chosen(values).pooler_output, model.layernorm(states)[:, 0])
    with pytest.raises(EmbeddingConfigError, match="layer=4: the encoder has the layers 1 to 3"):
        load_encoder(tmp_path, layer=4)
    with pytest.raises(EmbeddingConfigError, match="pooling='median': .*'mean', 'cls'"):
        load_encoder(tmp_path, pooling="median")
    model.embedding_settings = EmbeddingSettings(layer=1)
    with pytest.raises(EmbeddingConfigError, match="AudioMAEModel chooses layer and pooling by its configuration"):
        make_adapter(model)


def whitened(kind: str, make_ast) -> torch.nn.Module:
    """An encoder with the second of its poolings and a whitening of it to 7 dimensions."""
    if kind == "audio_mae":
        config = AudioMAEConfig.preset("tiny", num_hidden_layers=2, max_length=96, pooling="cls", whitening_size=7)
        return AudioMAEModel(config)
    encoder = make_ast()
    encoder.embedding_settings = EmbeddingSettings(None, "mean", (torch.zeros(32), torch.eye(32, 7)), max_length=40)
    return encoder


@pytest.mark.parametrize(("kind", "pooling", "other"), [("audio_mae", "cls", "mean"), ("ast", "mean", "pooler")])
def test_a_whitening_of_another_embedding_is_left_out_with_a_warning(make_ast, kind, pooling, other, tmp_path, caplog):
    save_encoder(whitened(kind, make_ast), tmp_path)
    for choices in ({}, {"pooling": pooling}):  # what is recorded may be said
        assert make_adapter(load_encoder(tmp_path, **choices)).embedding_size == 7
    assert not caplog.text
    for choices in ({"pooling": other}, {"layer": 1, "pooling": pooling}):
        caplog.clear()
        encoder = load_encoder(tmp_path, **choices)
        assert make_adapter(encoder).embedding_size > 7
        assert f"{tmp_path} has a whitening of another embedding than that of layer=" in caplog.text
        assert settings_of(encoder).max_length == (40 if kind == "ast" else None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not as it was saved"),
        ('{"layer": 1}', "pooling"),
        ('{"layer": null, "pooling": null, "whitening_size": 3}', "no such mean and matrix"),
        ('{"layer": null, "pooling": null, "whitening_size": null, "norm": 1}', "norm, which this version"),
        ('{"layer": 9, "pooling": null, "whitening_size": null}', "layers 1 to 2"),
        ('{"layer": null, "pooling": "max", "whitening_size": null}', "has pooler, mean"),
        ('{"layer": 1, "pooling": "pooler", "whitening_size": null}', "of the last output"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(make_ast, tmp_path: Path, text: str, message: str) -> None:
    save_encoder(make_ast(), tmp_path)
    (tmp_path / "embedding_config.json").write_text(text)
    with pytest.raises(EmbeddingConfigError, match=message):
        load_encoder(tmp_path)


def test_a_registered_adapter_is_the_one_that_is_used(make_ast, monkeypatch) -> None:
    monkeypatch.setattr("uamix_hf.embedding.kinds.ADAPTERS", dict(ADAPTERS))

    class Loudest(EncoderAdapter):
        def mean_over_tokens(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
            return hidden.amax(dim=1)

    register_encoder("audio-spectrogram-transformer", Loudest)
    encoder = make_ast().eval()
    encoder.embedding_settings = EmbeddingSettings(pooling="mean")
    adapter, values = make_adapter(encoder), torch.randn(1, 128, 128)
    with torch.no_grad():
        embedding, _ = adapter.encode(values, torch.tensor([128]), 0.0, 0.0)
        torch.testing.assert_close(embedding, encoder(values).last_hidden_state.amax(dim=1))
