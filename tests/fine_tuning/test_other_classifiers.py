"""Fine-tuning, FixMatch and pseudo-labels with encoders of every kind that has an adapter."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import BUILDS, short_encoder, slow_but
from toy_sounds import PLAIN, log_mels, tones
from transformers import AutoModelForAudioClassification

from uamix_hf.embedding import EmbeddingSettings, load_encoder, make_adapter, save_encoder
from uamix_hf.embedding.features import embed_features
from uamix_hf.embedding.kinds import settings_of
from uamix_hf.fine_tuning import (
    FineTuningArguments,
    FineTuningTrainer,
    FixMatchArguments,
    FixMatchTrainer,
    encoder_of,
    fine_tune,
    make_classifier,
    predict,
    predict_logits,
    tune_on_pseudo_labels,
    with_labels,
)
from uamix_hf.tuning import UaMixConfig, UaMixTrainingArguments

WAVES, LABELS = tones(24, noise=(0.1, 0.2))
OTHERS = tuple(kind for kind in BUILDS if kind != "audio_mae")
# Without gradient: the bias of keys shifts all scores of a query alike, and Whisper's layers have none.
IDLE = ("k_proj.bias", "key.bias")


def arguments(folder: Path, kind: type = FineTuningArguments, **more):
    fixed = {
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "max_steps": 2,
        "warmup_steps": 0,
        "logging_strategy": "no",
        "per_device_train_batch_size": 6,
        "learning_rate": 1e-2,
    }
    return kind(str(folder), **{**fixed, **more})


@pytest.mark.parametrize("kind", slow_but(("whisper", "wav2vec2"), OTHERS))
def test_training_changes_what_it_should_and_what_is_saved_predicts_the_same(kind: str, tmp_path: Path) -> None:
    encoder, extractor = short_encoder(kind)
    if kind in ("whisper", "ast"):
        encoder.embedding_settings = EmbeddingSettings(2, "mean")
    clips, before = log_mels(WAVES, extractor), copy.deepcopy(encoder)
    args = arguments(tmp_path / "run", freeze_blocks=1)
    model = make_classifier(encoder, 3, extractor, problem_type="single_label_classification",
                            **args.model_settings(encoder))  # fmt: skip
    head, labelled = model.classifier.weight.detach().clone(), with_labels(clips, LABELS)
    trainer = FineTuningTrainer(model, args, labelled, extractor)
    trainer.train()
    depths, adapter = make_adapter(before).layer_ids(), make_adapter(before)
    for name, value in before.named_parameters():
        last = depths[name] == len(adapter.layers) + 1
        kept = depths[name] <= 1 or (last and (adapter.cut or kind == "ast" and "pool" in name))
        if not name.endswith(IDLE):
            assert torch.equal(model.base_model.get_parameter(name), value) == kept, name
    assert not torch.equal(model.classifier.weight, head)
    rates = {group["lr"] for group in trainer.create_optimizer().param_groups}
    layers = len(adapter.layers)
    expected = {1e-2 * 0.75 ** (layers + 1 - depth) for depth in range(2, layers + 2)}
    assert np.allclose(sorted({group["initial_lr"] for group in trainer.optimizer.param_groups}), sorted(expected))
    assert len(rates) <= len(expected)
    settings = trainer.settings()
    assert settings["encoder"] == type(encoder).__name__ and settings["embedding_layer"] == layers
    assert "drop_path_rate" not in settings and "patchout_ratio" not in settings

    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "saved")
    logits = predict_logits(model, extractor, clips)
    assert np.array_equal(predict_logits(loaded, extractor, clips), logits) and np.ptp(logits) > 0
    again = make_classifier(load_encoder(tmp_path / "saved"), 2, extractor)
    for name, value in model.base_model.named_parameters():
        assert torch.equal(again.base_model.get_parameter(name), value), name


@pytest.mark.parametrize("kind", slow_but(["whisper"], ["whisper", "ast"]))
def test_toy_sounds_are_told_apart(kind: str, tmp_path: Path) -> None:
    encoder, extractor = short_encoder(kind)
    clips, plain = log_mels(WAVES, extractor), {name: PLAIN[name] for name in PLAIN if "patchout" not in name}
    args = arguments(tmp_path, max_steps=40, learning_rate=3e-3, **{**plain, "drop_path_rate": 0.0})
    model = fine_tune(encoder, extractor, clips, np.arange(18), LABELS, 3, args)
    assert (predict(model, extractor, clips, np.arange(18, 24)) == LABELS[18:]).mean() > 0.8


@pytest.mark.parametrize("kind", slow_but(["wav2vec2"], OTHERS))
def test_fixmatch_learns_from_clips_without_labels(kind: str, tmp_path: Path) -> None:
    encoder, extractor = short_encoder(kind)
    clips = log_mels(WAVES, extractor)
    model = make_classifier(encoder, 3, extractor, problem_type="single_label_classification")
    trainer = FixMatchTrainer(
        model, arguments(tmp_path, max_steps=1, logging_strategy="steps", logging_steps=1),
        with_labels(clips, LABELS).select(range(6)), extractor, clips.select(range(6, 24)),
        FixMatchArguments(True, unlabelled_ratio=2, confidence_threshold=0.34),
    )  # fmt: skip
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss_unlabelled" in entry)
    assert entry["loss_unlabelled"] > 0 and entry["pseudo_label_fraction"] > 0


@pytest.mark.parametrize("kind", slow_but(["whisper"], OTHERS))
def test_the_clusters_of_its_embeddings_are_learnt(kind: str, tmp_path: Path) -> None:
    encoder, extractor = short_encoder(kind)
    if kind == "whisper":
        encoder.embedding_settings = EmbeddingSettings(2, "mean", (torch.zeros(32), torch.eye(32, 9)))
    clips = log_mels(WAVES, extractor)
    args = arguments(tmp_path, UaMixTrainingArguments, recipe="plastic")
    config = UaMixConfig(min_view_frames=16)
    trainer = tune_on_pseudo_labels(encoder, extractor, clips, config, args, clusters=3, rounds=2)
    tuned = encoder_of(trainer.model)
    save_encoder(tuned, tmp_path / "tuned", extractor)
    loaded = load_encoder(tmp_path / "tuned")
    assert type(loaded) is type(encoder) and settings_of(loaded).layer == settings_of(encoder).layer
    vectors = [embed_features(one, extractor, clips) for one in (encoder, tuned, loaded)]
    assert np.array_equal(vectors[1], vectors[2]) and np.abs(vectors[0] - vectors[1]).max() > 1e-4
    assert vectors[1].shape[1] == (9 if kind == "whisper" else make_adapter(encoder).embedding_size)


def test_rates_that_an_encoder_does_not_have_are_refused_by_name(tmp_path: Path) -> None:
    for kind in OTHERS:
        encoder, _ = short_encoder(kind)
        assert arguments(tmp_path).model_settings(encoder) == {}
        for name, value in (("drop_path_rate", 0.2), ("patchout_ratio", 0.1), ("patchout_time_ratio", 0.3)):
            with pytest.raises(ValueError, match=f"{name}={value}.*{type(encoder).__name__} has none"):
                arguments(tmp_path, **{name: value}).model_settings(encoder)
            assert arguments(tmp_path, **{name: 0.0}).model_settings(encoder) == {}
