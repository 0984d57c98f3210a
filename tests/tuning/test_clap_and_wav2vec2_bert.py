"""CLAP's audio model and Wav2Vec2-BERT are tuned: what changes, what does not, and that padding has no say."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import RANDOM, make_encoder, slow_but

from uamix_hf import AudioEmbedder, UaMixForContrastiveTuning, fit_whitening
from uamix_hf.embedding import EmbeddingSettings, save_encoder
from uamix_hf.embedding.kinds import make_front_end, settings_of
from uamix_hf.tuning import StageTrainer

OWN = {kind: RANDOM[kind].extractor() for kind in ("clap", "wav2vec2-bert")}
BINS = {"clap": 64, "wav2vec2-bert": 80}
STEM = {
    "clap": ["audio_encoder.patch_embed.", "audio_encoder.batch_norm."],
    "wav2vec2-bert": ["masked_spec_embed", "feature_projection."],
}
LAYERS = {"clap": "audio_encoder.layers.", "wav2vec2-bert": "encoder.layers."}


@pytest.mark.parametrize("layer", [pytest.param(None, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("kind", slow_but(["wav2vec2-bert"], OWN))
def test_a_run_changes_the_layers_of_the_embedding_that_are_not_frozen(
    make_model, make_dataset, make_args, kind: str, layer: int | None, tmp_path: Path
) -> None:
    encoder = make_encoder(kind)
    encoder.embedding_settings = EmbeddingSettings(layer)
    before = copy.deepcopy(encoder)
    extractor = make_front_end(encoder.config, OWN[kind])
    data = make_dataset([60, 100, 120, 97, 45, 300, 110, 80], mel=BINS[kind])
    model = make_model(encoder=encoder, queue_size=8, input_mean=extractor.mean, input_std=extractor.std)
    args = make_args(max_steps=2, logging_steps=1, learning_rate=1e-3, freeze_blocks=1, warmup_steps=0)
    trainer = StageTrainer(model, args, data, extractor)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(steps) == 2 and all(0 < entry["loss"] < math.inf and entry["loss_mixed"] > 0 for entry in steps)
    last = ["audio_encoder.norm.", f"{LAYERS[kind]}2."] if layer else []
    untouched = tuple([*STEM[kind], f"{LAYERS[kind]}0.", *last])
    for name, value in encoder.named_parameters():
        assert torch.equal(value, before.get_parameter(name)) == name.startswith(untouched), name
    for name, value in encoder.named_buffers():  # the running statistics among them
        assert torch.equal(value, before.get_buffer(name)), name
    assert encoder.config.to_dict() == before.config.to_dict()

    model.save_pretrained(tmp_path)
    loaded = UaMixForContrastiveTuning.from_pretrained(tmp_path)
    assert type(loaded.encoder) is type(encoder) and settings_of(loaded.encoder).layer == layer
    values, lengths = torch.randn(2, 64, BINS[kind]), torch.tensor([64, 31])
    with torch.no_grad():
        pooled, _ = model.eval().adapter.encode(values, lengths, 0.0, 0.0)
        assert torch.equal(pooled, loaded.eval().adapter.encode(values, lengths, 0.0, 0.0)[0])


@pytest.mark.parametrize("kind", OWN)
def test_training_mode_depends_neither_on_chance_nor_on_other_clips(make_model, kind: str) -> None:
    encoder = make_encoder(kind)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model = make_model(encoder=encoder).train()
    values, lengths = torch.randn(3, 96, BINS[kind]), torch.tensor([96, 40, 7])
    (pooled,), _ = model.embed([values], lengths)
    (alone,), _ = model.embed([values[1:2, :40]], lengths[1:2])
    torch.testing.assert_close(pooled[1:2], alone, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        (evaluated,), _ = model.eval().embed([values], lengths)
    torch.testing.assert_close(pooled, evaluated)


@pytest.mark.parametrize("kind", OWN)
def test_gradients_reach_what_is_trained_and_nothing_else(make_model, make_batch, kind: str) -> None:
    encoder = make_encoder(kind)
    encoder.embedding_settings = EmbeddingSettings(2)
    model = make_model(encoder=encoder).train()
    loss = model(**make_batch([60, 97, 300, 45], mel=BINS[kind])).loss
    loss.backward()
    expected = model.adapter.trainable_names()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == (name in expected), name
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith(f"{LAYERS[kind]}2.") for name in trained)
    assert any(name.startswith(f"{LAYERS[kind]}0.") for name in trained)
    depths = model.adapter.layer_ids()
    assert all(depths[name] == 0 for name in depths if name.startswith(tuple(STEM[kind])))


@pytest.mark.parametrize("kind", OWN)
def test_a_whitening_is_fitted_saved_and_loaded(make_dataset, kind: str, tmp_path: Path) -> None:
    encoder = make_encoder(kind)
    data = make_dataset([60, 128, 97, 110, 45, 80], mel=BINS[kind])
    fit_whitening(encoder, OWN[kind], data, size=5)
    random = np.random.default_rng(0)
    clips = [0.1 * random.standard_normal(samples, np.float32) for samples in (30_000, 9000)]
    vectors = AudioEmbedder(encoder, OWN[kind]).encode(clips, progress_bar=False)
    assert vectors.shape == (2, 5)
    save_encoder(encoder, tmp_path)
    OWN[kind].save_pretrained(tmp_path)
    loaded = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu")
    assert np.array_equal(loaded.encode(clips, progress_bar=False), vectors)
