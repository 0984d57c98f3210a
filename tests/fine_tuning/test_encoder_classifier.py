"""A classifier on any encoder: its embedding, saved and loaded, in pipelines, and trained."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import BUILDS, short_encoder, slow_but
from huggingface_hub.errors import StrictDataclassError
from toy_sounds import tones
from transformers import AutoConfig, AutoModelForAudioClassification, pipeline

from uamix_hf import AudioEmbedder, EncoderClassifierConfig, EncoderForAudioClassification, InputTooLongError
from uamix_hf.embedding import EmbeddingSettings, EncoderError, load_encoder, load_feature_extractor, make_adapter
from uamix_hf.embedding.kinds import settings_of
from uamix_hf.fine_tuning import encoder_of, freeze, make_classifier

WAVES, LABELS = tones(12)
GENERIC = tuple(kind for kind in BUILDS if kind not in ("audio_mae", "beats"))
# Of layer, pooling and whitening, what an encoder's own configuration does not choose.
CHOSEN = {
    "whisper": EmbeddingSettings(2, "mean", (torch.full((32,), 0.1), torch.randn(32, 7))),
    "ast": EmbeddingSettings(2, "mean"),
    "mae_ast": EmbeddingSettings(whitening=(torch.full((32,), 0.1), torch.randn(32, 7))),
    "wav2vec2": EmbeddingSettings(2, None, (torch.full((32,), 0.1), torch.randn(32, 7))),
    "clap": EmbeddingSettings(2),
}


def classifier(kind: str, outputs: int = 3, chosen: bool = True, **settings):
    """A classifier in evaluation mode, the encoder that it was made of, and its front end."""
    encoder, extractor = short_encoder(kind)
    if chosen and kind in CHOSEN:
        encoder.embedding_settings = CHOSEN[kind]
    fixed = {"problem_type": "single_label_classification", "id2label": dict(enumerate("abc"[:outputs]))}
    return make_classifier(encoder, outputs, extractor, **{**fixed, **settings}).eval(), encoder, extractor


def batch(extractor, waves=WAVES[:4]) -> dict[str, torch.Tensor]:
    return dict(
        extractor(waves, sampling_rate=extractor.sampling_rate, return_attention_mask=True, return_tensors="pt")
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", BUILDS)
def test_logits_are_of_the_embedding_that_the_encoder_has(kind: str) -> None:
    model, encoder, extractor = classifier(kind)
    embeddings = AudioEmbedder(encoder, extractor).encode(WAVES[:4], progress_bar=False)
    expected = torch.from_numpy(embeddings) @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(**batch(extractor)).logits, expected, atol=1e-5, rtol=1e-5)
    assert isinstance(model, EncoderForAudioClassification) == (kind in GENERIC)


@torch.no_grad()
@pytest.mark.parametrize("kind", GENERIC)
def test_a_saved_classifier_loads_by_its_auto_classes_bit_for_bit(kind: str, tmp_path: Path) -> None:
    model, _, extractor = classifier(kind)
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is EncoderClassifierConfig and type(config.encoder_config) is type(model.encoder.config)
    assert config.problem_type == "single_label_classification" and config.id2label == {0: "a", 1: "b", 2: "c"}
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    mine, its = model.state_dict(), loaded.state_dict()
    assert mine.keys() == its.keys() and all(torch.equal(value, its[name]) for name, value in mine.items())
    assert torch.equal(loaded(**batch(extractor)).logits, model(**batch(extractor)).logits)
    assert not list(tmp_path.glob("*.bin"))


@pytest.mark.parametrize("kind", GENERIC)
def test_the_encoder_of_a_saved_classifier_is_loaded_with_its_embedding(kind: str, tmp_path: Path) -> None:
    model, encoder, extractor = classifier(kind)
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path)
    assert type(loaded) is type(encoder) and type(load_feature_extractor(tmp_path)) is type(extractor)
    expected = AudioEmbedder(encoder, extractor).encode(WAVES[:3], progress_bar=False)
    actual = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu").encode(WAVES[:3], progress_bar=False)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    if kind in ("whisper", "ast"):
        other = load_encoder(tmp_path, layer=1)
        assert settings_of(other) == EmbeddingSettings(1, "mean")


@pytest.mark.parametrize("kind", slow_but(("audio_mae", "whisper", "clap", "wav2vec2"), BUILDS))
def test_a_pipeline_gives_the_same_scores_one_by_one_and_in_batches(kind: str, tmp_path: Path) -> None:
    model, _, extractor = classifier(kind)
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    classify = pipeline("audio-classification", model=str(tmp_path), top_k=3)
    with torch.no_grad():
        rows = [model(**batch(extractor, [wave])).logits[0].softmax(0) for wave in WAVES[:4]]
    together = classify(WAVES[:4], batch_size=4)
    for said, wave, row in zip(together, WAVES, rows, strict=False):
        scores = [{one["label"]: one["score"] for one in found} for found in (said, classify(wave))]
        for found in scores:
            assert [found[name] for name in "abc"] == pytest.approx(row.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    "problem, labels, expected",
    [
        ("single_label_classification", torch.tensor([0, 2]), torch.nn.functional.cross_entropy),
        ("multi_label_classification", torch.tensor([[1.0, 0, 1], [0, 0, 1]]),
         torch.nn.functional.binary_cross_entropy_with_logits),
        ("regression", torch.tensor([0.5, -1]), lambda logits, labels: ((logits[:, 0] - labels) ** 2).mean()),
    ],
)  # fmt: skip
def test_the_loss_is_that_of_the_problem(problem: str, labels: torch.Tensor, expected) -> None:
    model, _, extractor = classifier("whisper", 1 if problem == "regression" else 3, problem_type=problem)
    output = model(**batch(extractor, WAVES[:2]), labels=labels)
    torch.testing.assert_close(output.loss, expected(output.logits, labels))


@pytest.mark.parametrize("kind", GENERIC)
def test_activations_can_be_checkpointed(kind: str) -> None:
    model, encoder, extractor = classifier(kind)
    freeze(model.encoder, 0)
    inputs, gradients = batch(extractor, WAVES[:3]), []
    if not encoder.supports_gradient_checkpointing:
        with pytest.raises(ValueError, match="does not support"):
            model.gradient_checkpointing_enable()
        return
    for checkpointing in (False, True):
        torch.manual_seed(0)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.zero_grad()
        model.train()(**inputs, labels=torch.tensor([0, 1, 2])).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@torch.no_grad()
@pytest.mark.parametrize("kind", GENERIC)
def test_half_precision_is_close(kind: str) -> None:
    model, _, extractor = classifier(kind)
    inputs = batch(extractor, WAVES[:3])
    expected = model(**inputs).logits
    half = model.to(torch.bfloat16)(**inputs).logits
    assert half.dtype == torch.bfloat16 and (half.float() - expected).abs().max() < 0.05 * expected.abs().max() + 0.01


def test_an_encoder_in_half_precision_is_trained_in_whole(tmp_path: Path) -> None:
    encoder, extractor = short_encoder("whisper")
    model = make_classifier(encoder.half(), 3, extractor)
    assert encoder.dtype == torch.float16 and {value.dtype for value in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path)
    loaded = EncoderForAudioClassification.from_pretrained(tmp_path)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", BUILDS)
def test_what_cannot_be_trained_is_frozen_and_the_given_encoder_left_as_it_is(kind: str) -> None:
    model, encoder, _ = classifier(kind)
    before, adapter = copy.deepcopy(encoder.state_dict()), make_adapter(model.base_model)
    parts = freeze(model.base_model, 1)
    depths = adapter.layer_ids()
    last = len(adapter.layers) + 1
    for name, parameter in model.base_model.named_parameters():
        fixed = depths[name] <= 1 or (depths[name] == last and adapter.cut) or "mel_conv2d" in name or "fusion" in name
        assert parameter.requires_grad != fixed, name
    assert adapter.layers[0] in parts
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    mine, its = settings_of(encoder_of(model)), settings_of(encoder)
    assert (mine.layer, mine.pooling) == (its.layer, its.pooling)
    for one, other in zip(mine.whitening or (), its.whitening or (), strict=True):
        assert torch.equal(one, other)


# --- what is refused


def test_wrong_inputs_are_refused() -> None:
    model, _, extractor = classifier("whisper")
    values = torch.zeros(2, 20, 80)
    for mask, message in (
        (torch.ones(2, 19), r"shape \(2, 19\), expected \(2, 20\)"),
        (torch.ones(2, 20).index_fill(1, torch.tensor([3]), 0), r"rows \[0, 1\]"),
        (torch.tensor([[1.0] * 20, [0.0] * 20]), r"rows \[1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            model(values, attention_mask=mask)
    with pytest.raises(InputTooLongError, match="67 frames; this classifier on WhisperEncoder takes up to 64"):
        model(torch.zeros(1, 67, 80))
    with pytest.raises(TypeError, match="output_attentions"):
        model(values, output_attentions=True)
    with pytest.raises(ValueError, match=r"mask_ratio=0.5: WhisperEncoder cannot drop tokens"):
        model(values, mask_ratio=0.5)
    assert model(values, return_dict=False, output_hidden_states=False)[0].shape == (2, 3)


def test_what_no_classifier_can_be_made_of_is_refused() -> None:
    encoder, extractor = short_encoder("whisper")
    with pytest.raises(TypeError, match="A classifier on WhisperEncoder pads as its feature extractor does"):
        make_classifier(encoder, 3)
    with pytest.raises(TypeError, match="EncoderClassifierConfig has no field drop_path_rate"):
        make_classifier(encoder, 3, extractor, drop_path_rate=0.1)
    with pytest.raises(ValueError, match="num_mel_bins=32 and the encoder 80"):
        make_classifier(encoder, 3, short_encoder("audio_mae")[1])
    with pytest.raises(TypeError, match="EncoderForAudioClassification has a head already"):
        make_classifier(make_classifier(encoder, 3, extractor), 3, extractor)
    with pytest.raises(EncoderError, match="Linear"):
        make_classifier(torch.nn.Linear(2, 2), 3, extractor)
    for wrong in ({"classifier_dropout": 1.0}, {"whitening_size": 0}):
        with pytest.raises(StrictDataclassError, match=next(iter(wrong))):
            EncoderClassifierConfig(**wrong)
