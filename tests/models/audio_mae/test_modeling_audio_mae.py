"""Audio-MAE's classes: invariances, transformers' conventions, errors. Official outputs: convert/test_audiomae.py."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    ASTConfig,
    ASTModel,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForPreTraining,
    AutoProcessor,
    Trainer,
    TrainingArguments,
)
from transformers.initialization import no_init_weights

from uamix_hf import (
    AudioMAEConfig,
    AudioMAEFeatureExtractor,
    AudioMAEForAudioClassification,
    AudioMAEForPreTraining,
    AudioMAEModel,
    InputTooLongError,
    UaMixConfig,
    UaMixForContrastiveTuning,
)
from uamix_hf.models.audio_mae.layers_audio_mae import sincos_position_table
from uamix_hf.models.audio_mae.pooling_audio_mae import pool_tokens

CLASSES = [AudioMAEModel, AudioMAEForPreTraining, AudioMAEForAudioClassification]


def log_mels(batch: int, frames: int) -> torch.Tensor:
    return torch.randn(batch, frames, 128, generator=torch.Generator().manual_seed(frames))


def mask_of(lengths: list[int], frames: int) -> torch.Tensor:
    return (torch.arange(frames) < torch.tensor(lengths)[:, None]).long()


def scramble(model: nn.Module) -> None:
    """Weights as after training: fresh ones are too small to show an error."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def local_pretraining(config: AudioMAEConfig) -> AudioMAEForPreTraining:
    config.decoder_type = "local"
    return AudioMAEForPreTraining(config)


def whitened_classifier(config: AudioMAEConfig) -> AudioMAEForAudioClassification:
    config.whitening_size = 5
    return AudioMAEForAudioClassification(config)


def tuned(config: AudioMAEConfig) -> UaMixForContrastiveTuning:
    sizes = {"projector_hidden_size": 8, "projection_size": 4, "predictor_hidden_size": 8, "queue_size": 6}
    return UaMixForContrastiveTuning(UaMixConfig(encoder_config=config, **sizes))  # as from_pretrained makes it


@pytest.fixture
def model(tiny_config: AudioMAEConfig) -> AudioMAEModel:
    torch.manual_seed(0)
    model = AudioMAEModel(tiny_config)
    scramble(model)
    return model.eval()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "pooling",
    [
        "mean",
        "cls",
        "mean_fc_norm",
        "mean_time",
        "mean_std",
        "mean_std_time",
        "std_time",
        "attention",
        "attention_time",
    ],
)
def test_a_clips_embedding_does_not_depend_on_its_batch(tiny_config, implementation: str, pooling: str) -> None:
    tiny_config.pooling = pooling
    model = AudioMAEModel(tiny_config).eval()
    scramble(model)
    model.set_attn_implementation(implementation)
    clips, lengths = log_mels(3, 192), [192, 70, 5]
    with torch.no_grad():
        batch = model(clips, mask_of(lengths, 192))
        for row, length in enumerate(lengths):
            frames = math.ceil(length / 16) * 16
            alone = model(clips[row : row + 1, :frames], mask_of([length], frames))
            torch.testing.assert_close(batch.pooler_output[row], alone.pooler_output[0], atol=1e-5, rtol=1e-5)
            tokens = alone.last_hidden_state.shape[1]
            torch.testing.assert_close(
                batch.last_hidden_state[row, :tokens], alone.last_hidden_state[0], atol=1e-5, rtol=1e-5
            )


def test_clip_alone_and_in_a_batch_embed_alike_from_the_waveform(model: AudioMAEModel) -> None:
    extractor = AudioMAEFeatureExtractor()
    waves = [np.random.default_rng(n).normal(0, 0.1, n) for n in (500, 8000, 30000)]
    with torch.no_grad():
        batch = model(**extractor(waves, sampling_rate=16000, return_tensors="pt")).pooler_output
        for row, wave in enumerate(waves):
            alone = model(**extractor(wave, sampling_rate=16000, return_tensors="pt")).pooler_output[0]
            torch.testing.assert_close(batch[row], alone, atol=1e-5, rtol=1e-5)


def test_eager_equals_sdpa_with_and_without_padding(tiny_config: AudioMAEConfig) -> None:
    model = AudioMAEForPreTraining(tiny_config).eval()
    scramble(model)
    clips, noise = log_mels(2, 128), torch.rand(2, 64)
    for mask in (None, mask_of([128, 40], 128)):
        outputs = []
        for implementation in ("sdpa", "eager"):
            model.set_attn_implementation(implementation)
            outputs.append(model(clips, mask, noise=noise).logits)
        torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)


def test_mask_is_skipped_where_nothing_is_padded(model: AudioMAEModel, monkeypatch) -> None:
    seen = []
    hook = model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    model(log_mels(2, 64), mask_of([64, 64], 64))
    model(log_mels(2, 64), mask_of([64, 49], 64))  # the last token has one valid frame, so it counts
    model(log_mels(2, 64), mask_of([64, 48], 64))
    hook.remove()
    assert seen[0] is None and seen[1] is None and seen[2] is not None


def test_nothing_is_dropped_unless_asked(model: AudioMAEModel) -> None:
    model.config.mask_ratio = 0.8
    output = model.train()(log_mels(2, 192))
    assert output.last_hidden_state.shape == (2, 1 + 96, 48) and output.mask is None
    dropped = model(log_mels(2, 192), mask_ratio=0.8)
    assert dropped.last_hidden_state.shape == (2, 1 + int(96 * (1 - 0.8)), 48)
    assert dropped.mask.sum(1).tolist() == [77, 77]


def test_dropping_keeps_the_tokens_of_least_noise_and_pools_them_alone(model: AudioMAEModel) -> None:
    clips, noise = log_mels(2, 64), torch.rand(2, 32, generator=torch.Generator().manual_seed(3))
    output = model(clips, mask_ratio=0.5, noise=noise)
    kept = noise.argsort(1)[:, :16]
    assert torch.equal(output.mask, torch.ones(2, 32).scatter(1, kept, 0.0))
    hidden = output.last_hidden_state[:, 1:]
    torch.testing.assert_close(output.pooler_output, hidden.mean(1))
    # Without blocks in between, token order and positions can be read off.
    _, patches = model.embeddings(clips)
    seen = []
    hook = model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(clips, mask_ratio=0.5, noise=noise)
    hook.remove()
    torch.testing.assert_close(seen[0][:, 1:], patches.gather(1, kept[..., None].expand(-1, -1, 48)))


def test_mean_time_averages_each_mel_row_over_the_frames_of_sound(tiny_config: AudioMAEConfig) -> None:
    tiny_config.pooling = "mean_time"
    model = AudioMAEModel(tiny_config).eval()
    output = model(log_mels(2, 64), mask_of([64, 30], 64))
    assert output.pooler_output.shape == (2, 8 * 48) == (2, tiny_config.embedding_size)
    for clip, frames in enumerate([[16, 16, 16, 16], [16, 14, 0, 0]]):
        columns = output.last_hidden_state[clip, 1:].reshape(4, 8, 48)
        rows = sum(count / sum(frames) * column for count, column in zip(frames, columns, strict=True))
        torch.testing.assert_close(output.pooler_output[clip].reshape(8, 48), rows)


def test_mean_time_is_not_rounded_under_autocast(tiny_config: AudioMAEConfig) -> None:
    tiny_config.pooling = "mean_time"
    model = AudioMAEModel(tiny_config).eval()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(log_mels(2, 64))
    rows = output.last_hidden_state[:, 1:].float().unflatten(1, (4, 8)).mean(1).flatten(1)
    torch.testing.assert_close(output.pooler_output.float(), rows, atol=1e-5, rtol=1e-5)


def test_mean_time_of_dropped_tokens_takes_the_overall_mean_for_a_row_without_any(tiny_config: AudioMAEConfig) -> None:
    tiny_config.pooling = "mean_time"
    model = AudioMAEModel(tiny_config).eval()
    noise = torch.rand(1, 32, generator=torch.Generator().manual_seed(3))
    noise[0, 2::8] = 2.0  # all four tokens of the third row are dropped
    output = model(log_mels(1, 64), mask_ratio=0.5, noise=noise)
    kept = noise[0].argsort()[:16]
    hidden, pooled = output.last_hidden_state[0, 1:], output.pooler_output.reshape(8, 48)
    for row in range(8):
        tokens = hidden[kept % 8 == row]
        assert len(tokens) > 0 or row == 2
        torch.testing.assert_close(pooled[row], hidden.mean(0) if row == 2 else tokens.mean(0))


@pytest.mark.parametrize("decoder_type", ["global", "local"])
def test_padding_neither_attends_nor_counts_in_pretraining(tiny_config: AudioMAEConfig, decoder_type: str) -> None:
    """Each clip of a padded batch is masked and reconstructed as if it were alone."""
    tiny_config.decoder_type = decoder_type
    model = AudioMAEForPreTraining(tiny_config).eval()
    scramble(model)
    clips, lengths = log_mels(3, 192), [192, 112, 33]
    noise = torch.rand(3, 96)
    batch = model(clips, mask_of(lengths, 192), noise=noise)
    errors, removed = [], []
    for row, length in enumerate(lengths):
        frames = math.ceil(length / 16) * 16
        tokens = frames // 16 * 8
        alone = model(clips[row : row + 1, :frames], noise=noise[row : row + 1, :tokens])
        torch.testing.assert_close(batch.logits[row, :tokens], alone.logits[0], atol=2e-5, rtol=1e-4)
        assert torch.equal(batch.mask[row, :tokens], alone.mask[0]) and batch.mask[row, tokens:].sum() == 0
        errors.append(alone.loss * alone.mask.sum())
        removed.append(alone.mask.sum())
    torch.testing.assert_close(batch.loss, sum(errors) / sum(removed), atol=1e-5, rtol=1e-5)
    changed = clips.clone()
    changed[2, 48:] = 1e3
    torch.testing.assert_close(model(changed, mask_of(lengths, 192), noise=noise).loss, batch.loss)


@pytest.mark.parametrize("frames", [16, 48, 80, 192])
def test_local_decoder_takes_any_number_of_token_columns(tiny_config: AudioMAEConfig, frames: int) -> None:
    """Windows that are filled up with padding give what windows cut off at the clip's end give."""
    tiny_config.decoder_type = "local"
    model = AudioMAEForPreTraining(tiny_config).eval()
    output = model(log_mels(2, frames))
    assert output.logits.shape == (2, frames // 2, 256) and output.loss.isfinite()


def test_reconstruction_loss_is_the_closed_form(tiny_config: AudioMAEConfig) -> None:
    clips = log_mels(2, 32)
    for norm_pix in (True, False):
        tiny_config.norm_pix_loss = norm_pix
        model = AudioMAEForPreTraining(tiny_config).eval()
        output = model(clips)
        total, count = 0.0, 0
        for row in range(2):
            for token in range(16):
                if output.mask[row, token] == 0:
                    continue
                time, mel = divmod(token, 8)
                patch = clips[row, time * 16 : time * 16 + 16, mel * 16 : mel * 16 + 16].double().flatten().numpy()
                if norm_pix:
                    patch = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
                total += ((output.logits[row, token].detach().double().numpy() - patch) ** 2).mean()
                count += 1
        assert output.loss.item() == pytest.approx(total / count, rel=1e-5)


def test_position_table_has_audiomaes_quirk(tiny_config: AudioMAEConfig) -> None:
    """Token (t, f) of a (64, 8) grid: the first half encodes (t mod 8) * 8 + f, the second t // 8."""
    width = 32
    table = sincos_position_table(AudioMAEConfig(), width)[0].double().numpy()
    assert table.shape == (513, width) and not table[0].any()
    omega = 10000.0 ** -(np.arange(width // 4) / (width // 4))

    def encode(first: int, second: int) -> np.ndarray:
        return np.concatenate([g(place * omega) for place in (first, second) for g in (np.sin, np.cos)])

    for t, f in ((0, 0), (1, 3), (7, 7), (8, 0), (63, 7), (20, 5)):
        np.testing.assert_allclose(table[1 + t * 8 + f], encode((t % 8) * 8 + f, t // 8), atol=1e-6)
    straight = sincos_position_table(AudioMAEConfig(position_layout="time_freq"), width)[0].double().numpy()
    for t, f in ((0, 0), (1, 3), (63, 7)):
        np.testing.assert_allclose(straight[1 + t * 8 + f], encode(f, t), atol=1e-6)


def test_shorter_input_takes_the_head_of_the_position_table(model: AudioMAEModel) -> None:
    clips = log_mels(1, 192)
    _, whole = model.embeddings(clips)
    _, short = model.embeddings(clips[:, :48])
    torch.testing.assert_close(short, whole[:, :24])


def test_wrong_shapes_are_errors_that_name_both_values(model: AudioMAEModel) -> None:
    with pytest.raises(InputTooLongError, match="208 frames.*192.*AudioEmbedder"):
        model(log_mels(1, 208))
    with pytest.raises(ValueError, match="50 frames.*patch_size=16"):
        model(log_mels(1, 50))
    with pytest.raises(ValueError, match=r"\(1, 64, 80\).*128"):
        model(torch.zeros(1, 64, 80))
    with pytest.raises(ValueError, match=r"\(1, 32\).*\(1, 64\)"):
        model(log_mels(1, 64), torch.ones(1, 32))
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        model(log_mels(2, 64), mask_of([64, 0], 64))
    with pytest.raises(ValueError, match="needs mask_ratio"):
        model(log_mels(1, 64), noise=torch.rand(1, 32))
    with pytest.raises(ValueError, match=r"\(1, 5\).*\(1, 32\)"):
        model(log_mels(1, 64), mask_ratio=0.5, noise=torch.rand(1, 5))


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("decoder_type", ["global", "local"])
def test_save_and_load_is_bit_equal(tiny_config, tmp_path: Path, kind: type, decoder_type: str) -> None:
    tiny_config.decoder_type = decoder_type
    model = kind(tiny_config).eval()
    scramble(model)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file() and not list(tmp_path.glob("*.bin"))
    loaded = kind.from_pretrained(tmp_path).eval()
    for (name, first), second in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(first, second), name
    for (name, first), second in zip(model.named_buffers(), dict(loaded.named_buffers()).values(), strict=True):
        assert torch.equal(first, second), name  # buffers that are not saved must be made anew
    clips, noise = log_mels(2, 80), torch.rand(2, 40)
    options = {"noise": noise} if kind is AudioMAEForPreTraining else {}
    for first, second in zip(model(clips, **options).to_tuple(), loaded(clips, **options).to_tuple(), strict=True):
        assert torch.equal(first, second)


def test_missing_weights_are_initialised_and_none_is_garbage(tiny_config: AudioMAEConfig, tmp_path: Path) -> None:
    AudioMAEModel(tiny_config).save_pretrained(tmp_path)
    tiny_config.decoder_type = "local"
    loaded = AudioMAEForPreTraining.from_pretrained(tmp_path, config=tiny_config)
    fresh = AudioMAEForPreTraining(tiny_config)
    assert torch.equal(loaded.decoder.position_embeddings, fresh.decoder.position_embeddings)
    assert torch.equal(loaded.decoder.layers[0].attention.tau, torch.ones(4))
    for name, value in [*loaded.named_parameters(), *loaded.named_buffers()]:
        assert value.device.type == "cpu" and value.isfinite().all() and value.abs().max() < 10, name
    fan_out, fan_in = loaded.decoder.embed.weight.shape
    bound = math.sqrt(6 / (fan_in + fan_out))  # Xavier
    assert 0.9 * bound < loaded.decoder.embed.weight.abs().max() <= bound


def test_initialisation_is_audiomaes(tiny_config: AudioMAEConfig) -> None:
    """Xavier for the patch as one flat vector and for linear layers, near zero for a new head."""
    tiny_config.num_labels = 50
    model = AudioMAEForAudioClassification(tiny_config)
    patch = model.audio_mae.embeddings.patch_embeddings.projection
    for weight, fans in ((patch.weight, 48 + 256), (model.audio_mae.layers[0].mlp.fc1.weight, 48 + 96)):
        bound = math.sqrt(6 / fans)
        assert 0.95 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert model.classifier.weight.std().item() == pytest.approx(2e-5, rel=0.1)
    assert not patch.bias.any() and not model.classifier.bias.any()
    assert model.audio_mae.embeddings.cls_token.std().item() == pytest.approx(0.02, rel=0.4)


def test_position_tables_are_loaded_and_stay_fixed(tiny_config: AudioMAEConfig, tmp_path: Path) -> None:
    """A checkpoint's table wins over the computed one, and loading does not make it trainable."""
    model = AudioMAEForPreTraining(tiny_config)
    model.audio_mae.embeddings.position_embeddings += 1
    model.decoder.position_embeddings += 1
    model.save_pretrained(tmp_path)
    loaded = AudioMAEForPreTraining.from_pretrained(tmp_path)
    for table in ("audio_mae.embeddings.position_embeddings", "decoder.position_embeddings"):
        assert torch.equal(loaded.state_dict()[table], model.state_dict()[table])
        assert table not in dict(loaded.named_parameters())


def test_auto_classes_know_the_package(tiny_config: AudioMAEConfig, tmp_path: Path) -> None:
    AudioMAEForPreTraining(tiny_config).save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is AudioMAEModel
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is AudioMAEForPreTraining
    assert type(AutoModelForAudioClassification.from_pretrained(tmp_path)) is AudioMAEForAudioClassification


def ast(config: AudioMAEConfig) -> ASTModel:
    """Another encoder, tuned with our extractor beside it."""
    return ASTModel(ASTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48))


@pytest.mark.parametrize("make", [AudioMAEForPreTraining, tuned, ast])
def test_no_auto_class_asks_to_run_code_that_is_installed(tiny_config, make: Callable, tmp_path, monkeypatch) -> None:
    make(tiny_config).save_pretrained(tmp_path)
    AudioMAEFeatureExtractor(max_length=192).save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    AutoConfig.from_pretrained(tmp_path)
    loaded = [auto.from_pretrained(tmp_path) for auto in (AutoFeatureExtractor, AutoProcessor)]
    assert not asked and all(type(one) is AudioMAEFeatureExtractor and one.max_length == 192 for one in loaded)


def test_the_shipped_checkpoints_have_a_processor_too() -> None:
    """Their files are older than the name by which AutoProcessor finds one."""
    folder = Path(__file__).parents[3] / "model_cards" / "audio-mae-tiny"
    assert "processor_class" not in (folder / "preprocessor_config.json").read_text()
    assert type(AutoProcessor.from_pretrained(folder)) is AudioMAEFeatureExtractor


def test_hidden_states_attentions_and_tuples(tiny_config: AudioMAEConfig) -> None:
    model = AudioMAEForPreTraining(tiny_config)
    model.set_attn_implementation("eager")
    clips = log_mels(2, 64)
    output = model.audio_mae.eval()(clips, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 4 and len(output.attentions) == 3
    assert output.attentions[0].shape == (2, 3, 33, 33)
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(2, 3, 33))
    torch.testing.assert_close(model.audio_mae.layernorm(output.hidden_states[-1]), output.last_hidden_state)
    masked = model(clips, output_hidden_states=True)
    assert len(masked.hidden_states) == 4 and masked.hidden_states[1].shape == (2, 1 + 6, 48)
    loss, logits = model(clips, noise=torch.rand(2, 32), return_dict=False)[:2]
    assert loss.ndim == 0 and logits.shape == (2, 32, 256)


@pytest.mark.parametrize("decoder_type", ["global", "local"])
def test_gradient_checkpointing_gives_the_same_gradients(tiny_config: AudioMAEConfig, decoder_type: str) -> None:
    tiny_config.decoder_type = decoder_type
    tiny_config.decoder_bias_dropout_prob = 0.0
    model = AudioMAEForPreTraining(tiny_config).train()
    clips, noise = log_mels(2, 64), torch.rand(2, 32)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(clips, noise=noise).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
    assert all(gradient is not None for gradient in gradients[1].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_bfloat16_and_compile_stay_close(tiny_config: AudioMAEConfig) -> None:
    model = AudioMAEModel(tiny_config).eval()
    clips = log_mels(2, 64)
    with torch.no_grad():
        expected = model(clips).pooler_output
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(clips).pooler_output
        torch.testing.assert_close(compiled, expected, atol=1e-5, rtol=1e-5)
        half = model.to(torch.bfloat16)(clips).pooler_output
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize(
    "problem,labels,reference",
    [
        ("single_label_classification", torch.tensor([1, 3]), nn.functional.cross_entropy),
        (
            "multi_label_classification",
            torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 0]]),
            nn.functional.binary_cross_entropy_with_logits,
        ),
        ("regression", torch.randn(2, 4), nn.functional.mse_loss),
    ],
)
def test_classification_losses(tiny_config, problem: str, labels: torch.Tensor, reference) -> None:
    tiny_config.num_labels, tiny_config.problem_type = 4, problem
    model = AudioMAEForAudioClassification(tiny_config)
    scramble(model)
    output = model(log_mels(2, 64), labels=labels)
    assert output.logits.shape == (2, 4)
    torch.testing.assert_close(output.loss, reference(output.logits, labels))


def test_accumulated_gradients_equal_one_large_batch(tiny_config: AudioMAEConfig, tmp_path: Path) -> None:
    """transformers skips the division for models that seem to take loss arguments; ours must not be among them."""
    tiny_config.num_labels, tiny_config.problem_type = 4, "multi_label_classification"
    rows = [{"input_values": log_mels(1, 32)[0] + i, "labels": torch.eye(4)[i % 4]} for i in range(4)]
    weights, losses = [], []
    for batch, accumulate in ((4, 1), (1, 4)):
        torch.manual_seed(0)
        model = AudioMAEForAudioClassification(tiny_config)
        arguments = TrainingArguments(
            str(tmp_path), use_cpu=True, max_steps=1, per_device_train_batch_size=batch, optim="sgd", learning_rate=1.0,
            gradient_accumulation_steps=accumulate, save_strategy="no", logging_steps=1, max_grad_norm=0,
            disable_tqdm=True, lr_scheduler_type="constant",
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
        weights.append(model.classifier.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_presets_have_the_sizes_of_the_table() -> None:
    table = {"tiny": (192, 12, 3, 128, 2, 4), "small": (384, 12, 6, 256, 4, 8), "base": (768, 12, 12, 512, 8, 16),
             "large": (1024, 24, 16, 512, 8, 16)}  # fmt: skip
    for name, sizes in table.items():
        config = AudioMAEConfig.preset(name, num_labels=3)
        assert sizes == (
            config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.decoder_hidden_size,
            config.decoder_num_hidden_layers, config.decoder_num_attention_heads,
        )  # fmt: skip
        assert config.intermediate_size == 4 * sizes[0] and config.decoder_intermediate_size == 4 * sizes[3]
        assert config.num_labels == 3
    with torch.device("meta"):
        encoder = AudioMAEModel(AudioMAEConfig.preset("base"))
    # A fine-tuned ViT-B with 527 classes trains 85,659,407 parameters.
    head = 768 * 527 + 527
    assert sum(p.numel() for p in encoder.parameters()) + head == 85_659_407
    with pytest.raises(ValueError, match="tiny, small, base, large"):
        AudioMAEConfig.preset("huge")


@pytest.mark.parametrize(
    "fields",
    [
        {"max_length": 1000}, {"num_mel_bins": 100}, {"num_attention_heads": 7}, {"decoder_num_attention_heads": 7},
        {"decoder_type": "local", "num_mel_bins": 96}, {"decoder_type": "swin"}, {"pooling": "max"},
        {"mask_ratio": 1.0}, {"hidden_size": "768"}, {"position_layout": "other"},
    ],
)  # fmt: skip
def test_impossible_configurations_are_refused(fields: dict) -> None:
    with pytest.raises(StrictDataclassError, match=next(iter(fields)) if len(fields) == 1 else "window"):
        AudioMAEConfig(**fields)


@pytest.mark.parametrize("make", [AudioMAEForPreTraining, local_pretraining, whitened_classifier, tuned])
def test_buffers_have_their_values_however_a_model_is_made(tiny_config: AudioMAEConfig, make: Callable) -> None:
    """As transformers' common test asks: without initialisation, and initialised after being made on no device."""
    expected = {name: value.clone() for name, value in make(copy.deepcopy(tiny_config)).named_buffers()}
    tables = [value for name, value in expected.items() if "position" in name]
    assert tables and all(table.abs().max() == 1 for table in tables)  # cosines of 0
    with no_init_weights():
        uninitialised = make(copy.deepcopy(tiny_config))
    with torch.device("meta"):
        elsewhere = make(copy.deepcopy(tiny_config))
    assert {value.device.type for value in elsewhere.state_dict().values()} == {"meta"}
    elsewhere.to_empty(device="cpu")
    for value in [*elsewhere.parameters(), *elsewhere.buffers()]:
        value.data.fill_(7)  # what to_empty leaves is anything
    elsewhere.init_weights()
    for model in (uninitialised, elsewhere):
        buffers = dict(model.named_buffers())
        assert buffers.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(buffers[name], value), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_is_drawn_and_set_does_not_depend_on_the_default_type(tiny_config: AudioMAEConfig, dtype) -> None:
    tiny_config.drop_path_rate = 0.3
    model, clips = AudioMAEModel(tiny_config).eval(), log_mels(4, 192)

    def drawn() -> list[torch.Tensor]:
        torch.manual_seed(0)
        branch = torch.ones(64, 1, 1, dtype=torch.float32)
        drop = AudioMAEModel(tiny_config).train().layers[-1].drop_path
        torch.manual_seed(0)
        return [model(clips, mask_ratio=0.5).mask, drop(branch), sincos_position_table(tiny_config, 48)]

    def rates() -> list[float]:
        return [layer.drop_path.rate for layer in AudioMAEModel(tiny_config).layers]

    expected, steps = drawn(), rates()
    assert steps == pytest.approx([0.0, 0.15, 0.3], rel=1e-12)
    torch.set_default_dtype(dtype)
    try:
        actual, found = drawn(), rates()
        table = AudioMAEModel(tiny_config).embeddings.position_embeddings
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == steps and table.dtype == dtype and torch.equal(table.float(), expected[2].to(dtype).float())
    for first, second in zip(expected, actual, strict=True):
        assert torch.equal(first, second) and first.dtype == second.dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lengths", [None, [192, 150]], ids=["whole", "padded"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "mean_fc_norm", "mean_time"])
def test_pooling_in_half_precision_is_that_of_float32(
    tiny_config, pooling: str, lengths: list[int] | None, dtype
) -> None:
    """Of hidden states whose sum over the tokens is beyond float16, as those of the last block are."""
    tiny_config.pooling = pooling
    model = AudioMAEModel(tiny_config).eval()
    scramble(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if pooling == "mean_fc_norm":  # with fc_norm, which takes off what all channels have in common
            model.layers[-1].mlp.fc2.bias.copy_(3000 * torch.randn(48, generator=generator))
        else:
            model.layernorm.bias.copy_(3000 * torch.randn(48, generator=generator))
        mask = None if lengths is None else mask_of(lengths, 192)
        expected = model(log_mels(2, 192), mask).pooler_output
        half = model.to(dtype)(log_mels(2, 192), mask)
        hidden = half.last_hidden_state[:, 1:].float()
        assert hidden.sum(dim=1).abs().max() > 65504 and half.pooler_output.dtype == dtype
        torch.testing.assert_close(half.pooler_output.float(), expected, rtol=0.02, atol=0.01 * expected.abs().max())
        # To the last bit, the mean of the hidden states that were really pooled.
        visible = None if lengths is None else model.token_mask(mask, log_mels(2, 192))
        pooled = pool_tokens(half.last_hidden_state.float(), visible, mask, None, tiny_config)
        exact = model.float().fc_norm(pooled)
        torch.testing.assert_close(half.pooler_output, exact.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-2)


def test_objectives_are_float32_under_autocast_and_in_half_precision(tiny_config: AudioMAEConfig) -> None:
    tiny_config.contrastive_weight = 0.1
    model = AudioMAEForPreTraining(tiny_config)
    target, mask = model.targets(log_mels(2, 192)), (torch.rand(2, 96) < 0.8).half()
    logits, matches = (torch.randn(2, 96, 256, generator=torch.Generator().manual_seed(n)).half() for n in (0, 1))
    logits = 300 * logits  # squares are beyond float16
    expected = [
        model.reconstruction_loss(target, logits.float(), mask.float()),
        model.contrastive_loss(target, matches.float(), mask.float()),
    ]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = [model.reconstruction_loss(target, logits, mask), model.contrastive_loss(target, matches, mask)]
    half = [model.reconstruction_loss(target, logits, mask), model.contrastive_loss(target, matches, mask)]
    for losses in (mixed, half):
        torch.testing.assert_close(losses, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "problem,labels,reference",
    [
        ("single_label_classification", torch.tensor([1, 3]), nn.functional.cross_entropy),
        ("multi_label_classification", torch.eye(4)[:2], nn.functional.binary_cross_entropy_with_logits),
        ("regression", torch.full((2, 4), 300.0), nn.functional.mse_loss),  # whose square is beyond float16
    ],
)
def test_a_half_precision_classifier_has_a_float32_loss(tiny_config, problem: str, labels, reference) -> None:
    tiny_config.num_labels, tiny_config.problem_type = 4, problem
    model = AudioMAEForAudioClassification(tiny_config).eval()
    scramble(model)
    half = model.half()(log_mels(2, 64), labels=labels)
    exact = reference(half.logits.double(), labels if labels.dtype == torch.long else labels.double())
    assert half.loss.dtype == torch.float32 and half.loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_argument_that_would_go_nowhere_is_refused(tiny_config: AudioMAEConfig, kind: type) -> None:
    model = kind(tiny_config)
    for wrong in ({"attentoin_mask": torch.ones(1, 64)}, {"is_causal": True}, {"input_features": log_mels(1, 64)}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            model(log_mels(1, 64), **wrong)
    # Those that transformers collects, and what exporters and PEFT leave switched off.
    output = model(log_mels(1, 64), output_hidden_states=True, use_cache=False, inputs_embeds=None, return_dict=True)
    assert len(output.hidden_states) == 4


def test_a_misspelt_field_of_a_configuration_is_named(tiny_config: AudioMAEConfig, tmp_path: Path, caplog) -> None:
    tiny_config.num_labels = 3
    AudioMAEForAudioClassification(tiny_config).save_pretrained(tmp_path)
    AutoModel.from_pretrained(tmp_path, attn_implementation="eager", dtype=torch.bfloat16)
    assert "has no field" not in caplog.text
    AudioMAEConfig.preset("tiny", poolnig="cls")
    assert "AudioMAEConfig has no field poolnig" in caplog.text


def pretraining_inputs(frames: int, lengths: list[int], grid: bool) -> dict[str, torch.Tensor]:
    places = frames // 16 + 8 if grid else frames // 2
    noise = torch.rand(len(lengths), places, generator=torch.Generator().manual_seed(frames))
    return {"input_values": log_mels(len(lengths), frames), "attention_mask": mask_of(lengths, frames), "noise": noise}


BATCHES = [(192, [192, 70]), (128, [100, 33, 5]), (64, [64, 64, 20])]


@pytest.mark.parametrize(
    "mask_type,dynamic", [pytest.param("unstructured", None, marks=pytest.mark.slow), ("time_frequency", True)]
)
def test_compiled_pretraining_of_padded_clips_is_the_same(tiny_config, mask_type: str, dynamic: bool | None) -> None:
    tiny_config.mask_type, tiny_config.num_hidden_layers, tiny_config.decoder_num_hidden_layers = mask_type, 1, 1
    model = AudioMAEForPreTraining(tiny_config).eval()
    scramble(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=dynamic)
    for frames, lengths in ((192, [192, 70]), (128, [100, 33, 5])):  # in the second, no clip is as long as the batch
        inputs = pretraining_inputs(frames, lengths, mask_type == "time_frequency")
        expected, actual = model(**inputs), compiled(**inputs)
        assert torch.equal(actual.mask, expected.mask)
        torch.testing.assert_close(actual.loss, expected.loss)
        torch.testing.assert_close(actual.logits, expected.logits, atol=1e-4, rtol=1e-4)


def test_compiled_local_decoder_of_padded_clips_is_the_same(tiny_config: AudioMAEConfig) -> None:
    tiny_config.decoder_type, tiny_config.contrastive_weight, tiny_config.num_hidden_layers = "local", 0.1, 1
    model = AudioMAEForPreTraining(tiny_config).eval()
    torch._dynamo.reset()
    inputs = pretraining_inputs(80, [80, 33], False)  # 5 columns in windows of 4
    actual = torch.compile(model, backend="eager", fullgraph=True)(**inputs)
    torch.testing.assert_close(actual.to_tuple(), model(**inputs).to_tuple(), atol=1e-5, rtol=1e-4)


def test_compiled_fine_tuning_with_patchout_has_the_same_gradients(tiny_config: AudioMAEConfig) -> None:
    shares = {"patchout_ratio": 0.3, "patchout_time_ratio": 0.2, "patchout_mel_ratio": 0.2, "pooling": "mean_time"}
    shares |= {"num_hidden_layers": 1}
    model = AudioMAEForAudioClassification(AudioMAEConfig(**tiny_config.to_dict() | shares)).train()
    scramble(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    noise = torch.rand(3, 8 + 8 + 64, generator=torch.Generator().manual_seed(0))
    inputs = {"input_values": log_mels(3, 128), "attention_mask": mask_of([100, 33, 5], 128), "noise": noise}
    results = []
    for forward in (model, compiled):
        model.zero_grad()
        loss = forward(**inputs, labels=torch.tensor([0, 1, 1])).loss
        loss.backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        results.append((loss.detach(), gradients))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)
    assert compiled(**inputs | {"noise": None}).loss is None  # drawn inside
