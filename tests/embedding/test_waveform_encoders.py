"""Encoders of waveforms: an embedding is the mean over transformers' own output, whatever else is in the batch."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from all_encoders import ALL_WAVEFORMS, RANDOM, as_published, make_encoder, slow_but
from toy_sounds import tones
from transformers import (
    ASTFeatureExtractor,
    AutoFeatureExtractor,
    AutoModel,
    HubertForCTC,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
)

from uamix_hf import AudioEmbedder, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.embedding import (
    EmbeddingConfigError,
    EmbeddingSettings,
    EncoderError,
    load_encoder,
    load_feature_extractor,
    make_adapter,
    save_encoder,
)
from uamix_hf.embedding.waveform import WaveformAdapter
from uamix_hf.models.waveform_frames import WaveformFrames

KINDS = slow_but(("wav2vec2", "wav2vec2-layer-norm", "wavlm", "sew"), ALL_WAVEFORMS)
FRAMES = (97, 60, 31, 10, 5)
OWN = Wav2Vec2FeatureExtractor(do_normalize=True)
# What differs from pass to pass in training mode, apart from the adapter's own.
DROPOUTS = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "conformer_conv_dropout")


def waveform_encoder(kind: str, **fields: Any) -> PreTrainedModel:
    return make_encoder(kind, **as_published(kind), **fields)


def without_dropout(kind: str) -> dict[str, float]:
    """Fields of a configuration that leave an encoder without dropout."""
    return {name: 0.0 for name in DROPOUTS if hasattr(RANDOM[kind].model.config_class(), name)}


def sounds() -> list[np.ndarray]:
    """Real-valued clips of whole frames, an even and an odd number of them, down to a single token."""
    waves = tones(len(FRAMES), level=(0.02, 0.2))[0]
    return [np.resize(wave, 160 * frames) for wave, frames in zip(waves, FRAMES, strict=True)]


@torch.no_grad()
def own_output(encoder: PreTrainedModel, wave: np.ndarray, own: Wav2Vec2FeatureExtractor = OWN, layer: int = 0):
    """Tokens (tokens, hidden) of one clip as transformers computes them."""
    values = own(wave, sampling_rate=own.sampling_rate, return_tensors="np")["input_values"]
    output = encoder(torch.from_numpy(values), output_hidden_states=layer > 0)
    return (output.hidden_states[layer] if layer else output.last_hidden_state)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalised", [True, False])
def test_embeddings_are_the_mean_over_transformers_own_tokens(kind: str, normalised: bool) -> None:
    encoder = waveform_encoder(kind)
    own = Wav2Vec2FeatureExtractor(do_normalize=normalised)
    embedder = AudioEmbedder(encoder, own)
    together = embedder.encode(sounds(), batch_size=len(FRAMES), progress_bar=False)
    for wave, vector in zip(sounds(), together, strict=True):
        np.testing.assert_allclose(vector, own_output(encoder, wave, own).mean(0), atol=1e-5)
        np.testing.assert_allclose(vector, embedder.encode(wave, progress_bar=False), atol=1e-5)
    assert embedder.embedding_size == together.shape[1] == (20 if kind == "wav2vec2-adapter" else 32)
    assert np.linalg.norm(together[:, None] - together[None], axis=-1)[np.triu_indices(len(FRAMES), 1)].min() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_layers_output_is_transformers_own(kind: str) -> None:
    encoder = waveform_encoder(kind)
    encoder.embedding_settings = EmbeddingSettings(layer=2)
    together = AudioEmbedder(encoder, OWN).encode(sounds(), progress_bar=False)
    for wave, vector in zip(sounds(), together, strict=True):
        np.testing.assert_allclose(vector, own_output(encoder, wave, layer=2).mean(0), atol=1e-5)
    with pytest.raises(EmbeddingConfigError, match="layers 1 to 3"):
        encoder.embedding_settings = EmbeddingSettings(layer=4)
        make_adapter(encoder)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_counted_as_in_transformers(kind: str) -> None:
    encoder = waveform_encoder(kind)
    adapter = make_adapter(encoder)
    size, stride = adapter.patch, adapter.strides[0]
    assert (size, stride) == ((5, 4) if kind.startswith("sew") else (3, 2))
    for frames in range(size, 30):
        samples = torch.tensor([160 * frames])
        counted = adapter.convolutions.tokens(samples, inside=False)
        assert counted == encoder._get_feat_extract_output_lengths(samples), frames
        visible = adapter.valid_tokens(torch.tensor([frames]), 40, 160)[0, :, 0]
        assert visible.sum() == adapter.convolutions.tokens(samples, inside=True)
        assert len(visible) == (40 - size) // stride + 1 and visible.diff().max() <= 0


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_masked_or_skipped_in_training(kind: str) -> None:
    chances = {"mask_time_prob": 0.9, "mask_time_length": 2, "mask_feature_prob": 0.5, "mask_feature_length": 4}
    layerdrop = {} if kind == "sew-d" else {"layerdrop": 0.9}
    encoder = waveform_encoder(kind, **chances, **layerdrop, **without_dropout(kind))
    encoder.config.do_normalize = True
    values, lengths = torch.randn(3, 40, 160), torch.tensor([40, 12, 5])
    expected, _ = make_adapter(encoder).encode(values, lengths, 0.0, 0.0)
    encoder.train()
    if kind in ("hubert-batch-norm", "wav2vec2-conformer"):  # whose statistics are of the batch in training
        for module in encoder.modules():
            module.train(not isinstance(module, torch.nn.BatchNorm1d))
    before = encoder.config.to_dict()
    for layer in (None, 1):
        encoder.embedding_settings = EmbeddingSettings(layer)
        actual, _ = make_adapter(encoder).encode(values, lengths, 0.0, 0.0)
        assert actual.isfinite().all()
        if layer is None:
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert encoder.config.to_dict() == before and before["mask_time_prob"] == 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [None, 2])
def test_the_parameters_that_are_trained_are_those_with_a_gradient(kind: str, layer: int | None) -> None:
    encoder = waveform_encoder(kind, mask_time_prob=0.5)
    encoder.config.do_normalize = True
    encoder.embedding_settings = EmbeddingSettings(layer)
    adapter = make_adapter(encoder.train())
    values, lengths = torch.randn(2, 40, 160), torch.tensor([40, 30])
    adapter.encode(values, lengths, 0.0, 0.0)[0].square().sum().backward()
    reached = {name for name, value in encoder.named_parameters() if value.grad is not None}
    # What the layers of SEW-D share comes after them, so that it stays as it is where layers are left out.
    shared = {name for name in reached if name.startswith("encoder.encoder.") and ".layer." not in name}
    assert adapter.trainable_names() == (reached - shared if adapter.cut else reached)
    assert "masked_spec_embed" in dict(encoder.named_parameters()).keys() - reached


@pytest.mark.parametrize("kind", KINDS)
def test_the_stem_is_what_runs_before_the_layers(kind: str) -> None:
    encoder = waveform_encoder(kind)
    encoder.config.do_normalize = True
    adapter, order = make_adapter(encoder), []
    for module in encoder.modules():
        module.register_forward_hook(lambda module, args, output: order.append(module))
    adapter.encode(torch.randn(2, 40, 160), torch.tensor([40, 40]), 0.0, 0.0)
    first = next(place for place, module in enumerate(order) if module in list(adapter.layers[0].modules()))
    stem = [part for part in adapter.stem() if isinstance(part, torch.nn.Module)]
    inner = {module for part in stem for module in part.modules()}
    assert encoder.feature_extractor in stem
    assert {place for place, module in enumerate(order) if module in inner and list(module.parameters())} <= set(
        range(first)
    )
    depths = adapter.layer_ids()
    assert {depth for name, depth in depths.items() if name.startswith("feature_")} == {0}
    assert set(depths.values()) >= {0, 1, 2, 3}


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2-layer-norm", "wavlm", "sew", "wav2vec2-conformer"])
@pytest.mark.parametrize("layer", [None, 2])
def test_gradients_are_the_same_with_gradient_checkpointing(kind: str, layer: int | None) -> None:
    encoder = waveform_encoder(kind, **without_dropout(kind), layerdrop=0.5)
    encoder.config.do_normalize = True
    encoder.embedding_settings = EmbeddingSettings(layer)
    values, lengths = torch.randn(2, 30, 160), torch.tensor([30, 21])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            encoder.gradient_checkpointing_enable()
        encoder.train().zero_grad()
        make_adapter(encoder).encode(values, lengths, 0.0, 0.0)[0].square().mean().backward()
        gradients.append({name: one.grad.clone() for name, one in encoder.named_parameters() if one.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_gives_the_same_vectors_and_is_transformers_own(kind: str, tmp_path: Path) -> None:
    encoder, own = waveform_encoder(kind), Wav2Vec2FeatureExtractor(do_normalize=False)
    encoder.embedding_settings = EmbeddingSettings(layer=2, pooling="mean")
    expected = AudioEmbedder(encoder, own).encode(sounds(), progress_bar=False)
    save_encoder(encoder, tmp_path, AudioEmbedder(encoder, own).feature_extractor)
    embedder = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu")
    assert np.array_equal(embedder.encode(sounds(), progress_bar=False), expected)
    alone = AutoModel.from_pretrained(tmp_path)
    assert type(alone) is type(encoder) and alone.config.layerdrop == encoder.config.layerdrop if kind != "sew-d" else 1
    for name, value in encoder.state_dict().items():
        assert torch.equal(alone.state_dict()[name], value), name
    again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(again) is Wav2Vec2FeatureExtractor and not again.do_normalize


@pytest.mark.parametrize("whole", [Wav2Vec2ForCTC, Wav2Vec2ForPreTraining, HubertForCTC])
def test_the_encoder_of_a_model_with_a_head_is_loaded(whole: type[PreTrainedModel], tmp_path: Path) -> None:
    fields = RANDOM["hubert" if whole is HubertForCTC else "wav2vec2"].fields
    model = whole(whole.config_class(**fields, codevector_dim=16, proj_codevector_dim=16)).eval()
    model.half().save_pretrained(tmp_path)
    OWN.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    assert type(encoder) is type(model.base_model) and encoder.dtype == torch.float32
    for name, value in model.base_model.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value.float()), name
    embedder = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu")
    np.testing.assert_allclose(
        embedder.encode(sounds()[0], progress_bar=False), own_output(encoder.eval(), sounds()[0]).mean(0), atol=1e-5
    )
    with pytest.raises(TypeError, match="has a head: give AudioEmbedder its encoder"):
        AudioEmbedder(model, OWN)


@pytest.mark.parametrize("kind", ["wav2vec2", "wavlm-layer-norm", "sew"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.02), (torch.bfloat16, 0.15)])
def test_half_precision(kind: str, dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    encoder = waveform_encoder(kind)
    expected = AudioEmbedder(encoder, OWN).encode(sounds(), progress_bar=False)
    save_encoder(encoder, tmp_path, OWN)
    embedder = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu", dtype=dtype)
    assert embedder.model.dtype == dtype
    vectors = embedder.encode(sounds(), progress_bar=False)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 159, 400, 479])
def test_a_clip_shorter_than_a_token_is_padded_with_zeros_to_one(kind: str, samples: int) -> None:
    encoder, own = waveform_encoder(kind), Wav2Vec2FeatureExtractor(do_normalize=False)
    wave = sounds()[0]
    embedder = AudioEmbedder(encoder, own)
    short = embedder.encode([wave, wave[:samples]], progress_bar=False)[1]
    least = np.zeros(160 * make_adapter(encoder).patch_shape[0], np.float32)
    least[:samples] = wave[:samples]
    np.testing.assert_allclose(short, own_output(encoder, least, own).mean(0), atol=1e-5)
    # Also where a batch has fewer frames than a token.
    values = torch.from_numpy(least)[None, :160, None].mT
    pooled, visible = embedder.adapter.encode(values, torch.tensor([1]), 0.0, 0.0)
    assert visible.tolist() == [[[1.0]]] and pooled.isfinite().all()


def test_silence_has_a_finite_embedding() -> None:
    for normalised in (True, False):
        embedder = AudioEmbedder(waveform_encoder("wav2vec2"), Wav2Vec2FeatureExtractor(do_normalize=normalised))
        assert np.isfinite(embedder.encode(np.zeros(8000, np.float32), progress_bar=False)).all()


def test_long_recordings_are_split_into_windows(tmp_path: Path) -> None:
    encoder = waveform_encoder("hubert-layer-norm")
    embedder = AudioEmbedder(encoder, OWN)
    assert embedder.feature_extractor.max_length == 3000  # 30 s
    wave = np.concatenate([sounds()[0]] * 4)[: 160 * 250]
    encoder.embedding_settings = EmbeddingSettings(max_length=100)
    windowed = AudioEmbedder(encoder, OWN)
    assert windowed.window_samples == 16_000
    parts = [own_output(encoder, part).mean(0).numpy() for part in np.split(wave, [16_000, 32_000])]
    expected = (100 * parts[0] + 100 * parts[1] + 50 * parts[2]) / 250
    np.testing.assert_allclose(windowed.encode(wave, progress_bar=False), expected, atol=1e-5)
    save_encoder(encoder, tmp_path, windowed.feature_extractor)
    assert load_feature_extractor(tmp_path).max_length == 100


def test_a_contradiction_is_refused_by_name() -> None:
    encoder = waveform_encoder("wav2vec2")
    with pytest.raises(EncoderError, match=r"Whether Wav2Vec2Model .* set encoder\.config\.do_normalize"):
        make_adapter(encoder).encode(torch.zeros(1, 9, 160), torch.tensor([9]), 0.0, 0.0)
    with pytest.raises(ValueError, match="AudioMAEFeatureExtractor makes features of the domain 'log-mel'"):
        AudioEmbedder(encoder, AudioMAEFeatureExtractor())
    with pytest.raises(ValueError, match="WaveformFrames makes features of the domain 'waveform', .*'log-mel'"):
        AudioEmbedder(AudioMAEModel.from_pretrained("model_cards/audio-mae-tiny"), WaveformFrames())
    with pytest.raises(ValueError, match="patch_size=5 and the encoder 3"):
        AudioEmbedder(encoder, WaveformFrames(patch_size=5, time_stride=4))
    AudioEmbedder(encoder, OWN)
    with pytest.raises(ValueError, match="do_normalize=True, and its feature extractor False"):
        AudioEmbedder(encoder, Wav2Vec2FeatureExtractor(do_normalize=False))
    with pytest.raises(ValueError, match="ASTFeatureExtractor makes no waveforms"):
        AudioEmbedder(copy.deepcopy(encoder), ASTFeatureExtractor())
    assert isinstance(make_adapter(encoder), WaveformAdapter) and isinstance(encoder, Wav2Vec2Model)
