"""Encoders without a whitening of their own have one in the settings of their embedding; Whisper's is tuned."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import make_encoder
from transformers import ASTModel, PreTrainedModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from uamix_hf import AudioEmbedder, AudioMAEFeatureExtractor, UaMixForContrastiveTuning, fit_whitening
from uamix_hf.embedding import EmbeddingSettings, check_whitening, load_encoder, save_encoder
from uamix_hf.embedding.kinds import settings_of
from uamix_hf.models.front_ends import front_end
from uamix_hf.tuning import StageTrainer


def clips(*samples: int) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [0.1 * random.standard_normal(count, np.float32) for count in samples]


def test_asts_whitening_layer_and_pooling_are_saved_and_loaded(make_ast, make_dataset, tmp_path: Path) -> None:
    encoder, extractor = make_ast(), AudioMAEFeatureExtractor(max_length=128)
    encoder.embedding_settings = EmbeddingSettings(1, "mean")
    plain = AudioEmbedder(encoder, extractor).encode(clips(9000, 16_000), progress_bar=False)
    data = make_dataset([60, 128, 97, 110, 45, 80], mel=128)
    fit_whitening(encoder, extractor, data, size=5)
    mean, matrix = settings_of(encoder).whitening
    whitened = AudioEmbedder(encoder, extractor).encode(clips(9000, 16_000), progress_bar=False)
    np.testing.assert_allclose(whitened, (plain - mean.numpy()) @ matrix.numpy(), atol=1e-4)

    save_encoder(encoder, tmp_path)
    extractor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "embedding_config.json").read_text()) == {
        "layer": 1, "pooling": "mean", "whitening_size": 5
    }  # fmt: skip
    loaded = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu")
    assert type(loaded.model) is ASTModel and loaded.embedding_size == 5
    assert np.array_equal(loaded.encode(clips(9000, 16_000), progress_bar=False), whitened)
    # Another choice than the recorded one has no whitening, and saving it leaves none behind.
    chosen = load_encoder(tmp_path, layer=2)
    assert settings_of(chosen) == EmbeddingSettings(2, "mean")
    save_encoder(chosen, tmp_path)
    assert not (tmp_path / "embedding_whitening.safetensors").exists()
    assert settings_of(load_encoder(tmp_path)) == EmbeddingSettings(2, "mean")


def test_a_failed_whitening_leaves_the_settings_as_they_were(make_ast, make_dataset) -> None:
    encoder = make_ast()
    encoder.embedding_settings = before = EmbeddingSettings(1, "mean", (torch.zeros(32), torch.eye(32, 3)))
    with pytest.raises(ValueError, match="at least two"):
        fit_whitening(encoder, AudioMAEFeatureExtractor(max_length=128), make_dataset([60], mel=128))
    assert encoder.embedding_settings is before
    check_whitening(encoder)


def small_whisper() -> PreTrainedModel:
    return make_encoder("whisper", max_source_positions=60)


@pytest.mark.parametrize("layer", [None, 2])
def test_a_run_changes_the_layers_of_the_embedding_that_are_not_frozen(
    make_model, make_dataset, make_args, layer, tmp_path: Path
) -> None:
    encoder = small_whisper()
    encoder.embedding_settings = EmbeddingSettings(layer, "mean")
    before = copy.deepcopy(encoder)
    model = make_model(encoder=encoder, queue_size=8)
    data, extractor = make_dataset([60, 100, 120, 97, 45, 300, 110, 80], mel=80), front_end("whisper", max_length=120)
    args = make_args(max_steps=5, logging_steps=1, learning_rate=1e-3, freeze_blocks=1, warmup_steps=0)
    trainer = StageTrainer(model, args, data, extractor)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(steps) == 5 and all(0 < entry["loss"] < math.inf and entry["loss_mixed"] > 0 for entry in steps)
    assert all(0.4 < entry["mix_lambda"] <= 1 for entry in steps)
    untouched = ["conv1.", "conv2.", "embed_positions.", "layers.0."] + ["layers.2.", "layer_norm."] * (layer == 2)
    for name, value in encoder.named_parameters():
        assert torch.equal(value, before.get_parameter(name)) == name.startswith(tuple(untouched)), name

    model.save_pretrained(tmp_path / "method")
    loaded = UaMixForContrastiveTuning.from_pretrained(tmp_path / "method")
    assert type(loaded.encoder) is WhisperEncoder and settings_of(loaded.encoder).layer == layer
    values, lengths = torch.randn(2, 64, 80), torch.tensor([64, 31])
    with torch.no_grad():
        pooled, _ = model.eval().adapter.encode(values, lengths, 0.0, 0.0)
        assert torch.equal(pooled, loaded.eval().adapter.encode(values, lengths, 0.0, 0.0)[0])


def test_padding_and_other_clips_do_not_change_whispers_views(make_model) -> None:
    model = make_model(encoder=small_whisper()).eval()
    values, lengths = torch.randn(3, 96, 80), torch.tensor([96, 40, 7])
    with torch.no_grad():
        (pooled,), (seen,) = model.embed([values], lengths)
        (alone,), _ = model.embed([values[1:2, :40]], lengths[1:2])
    torch.testing.assert_close(pooled[1:2], alone)
    assert seen.shape == (3, 48, 1) and seen.sum((1, 2)).tolist() == [48, 20, 4]


def test_an_encoder_that_was_whitened_is_tuned_without_it_and_says_so(make_model, caplog) -> None:
    encoder = small_whisper()
    encoder.embedding_settings = EmbeddingSettings(2, None, (torch.zeros(32), torch.eye(32, 3)), max_length=60)
    model = make_model(encoder=encoder)
    assert model.adapter.embedding_size == 32 and settings_of(encoder) == EmbeddingSettings(2, max_length=60)
    assert "The whitening of WhisperEncoder is left out" in caplog.text


def test_views_and_windows_are_no_longer_than_max_length(make_dataset, make_args, tmp_path: Path) -> None:
    from uamix_hf.tuning import make_model as make

    encoder, lengths = small_whisper(), []
    extractor = front_end("whisper", max_length=41)
    model = make(encoder, make_args(queue_size=4, topk=1, projector_hidden_size=8, projection_size=8), extractor)
    encoder.conv1.register_forward_hook(lambda module, args, output: lengths.append(args[0].shape[2]))
    data = make_dataset([120, 100, 90, 300], mel=80)
    StageTrainer(model, make_args(max_steps=2), data, extractor).train()
    assert lengths and max(lengths) == 40 + 2  # whole tokens, and the silence after them
    lengths.clear()
    fit_whitening(encoder, extractor, data, size=3)
    assert max(lengths) == 42 + 2
    save_encoder(encoder, tmp_path, extractor)
    assert json.loads((tmp_path / "embedding_config.json").read_text())["max_length"] == 41
    model.save_pretrained(tmp_path / "method")
    assert UaMixForContrastiveTuning.from_pretrained(tmp_path / "method").max_frames == 40


def test_a_feature_extractor_of_another_scale_is_refused(make_args) -> None:
    from uamix_hf.tuning import make_model as make

    with pytest.raises(ValueError, match="num_mel_bins=128 and the encoder 80"):
        make(small_whisper(), make_args(), AudioMAEFeatureExtractor(max_length=96))
