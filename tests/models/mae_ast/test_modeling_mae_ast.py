"""MAE-AST's encoder: invariances, transformers' conventions, errors. Official outputs: test_convert_mae_ast.py."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_checks import (
    check_attention_implementations,
    check_batch_invariance,
    check_determinism_and_hidden_gradients,
    check_gradient_checkpointing,
    check_initialisation,
    check_recorded_outputs,
    check_refused_arguments,
    check_remote_code,
    check_saving,
    check_tuning_step,
    log_mels,
    mask_of,
    scramble,
)
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from uamix_hf import AudioEmbedder, MAEASTConfig, MAEASTModel
from uamix_hf.models.front_ends import front_end
from uamix_hf.models.mae_ast.modeling_mae_ast import sinusoidal_position_table

CODE = {"configuration_mae_ast.py", "modeling_mae_ast.py"}
VARIANTS = {"patch": (16, 16), "frame": (2, 128)}


def make(variant: str = "patch", **fields) -> MAEASTModel:
    patch, mel_bins = VARIANTS[variant]
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    torch.manual_seed(0)
    config = MAEASTConfig(**{**sizes, "max_length": 96, "patch_size": patch, "patch_mel_bins": mel_bins, **fields})
    model = MAEASTModel(config)
    scramble(model)
    return model.eval()


@pytest.fixture(params=VARIANTS)
def model(request) -> MAEASTModel:
    return make(request.param)


def test_positions_are_interleaved_sines_and_cosines() -> None:
    table = sinusoidal_position_table(50, 6)
    for token in (0, 1, 7, 49):
        for pair in range(3):
            angle = token * math.exp(-2 * pair * math.log(10_000) / 6)
            assert table[0, token, 2 * pair : 2 * pair + 2].tolist() == pytest.approx(
                [math.sin(angle), math.cos(angle)], abs=1e-6
            )


def test_tokens_are_time_major_with_frames_before_mel_bins() -> None:
    model = make("patch")
    clip = torch.arange(32 * 128, dtype=torch.float32).reshape(1, 32, 128)
    patches = model.embeddings.patches(clip)
    for t in range(2):
        for f in range(8):
            expected = clip[0, 16 * t : 16 * t + 16, 16 * f : 16 * f + 16].flatten()
            assert torch.equal(patches[0, 8 * t + f], expected)
    assert torch.equal(make("frame").embeddings.patches(clip)[0, 3], clip[0, 6:8].flatten())


def test_clip_alone_and_in_a_padded_batch_are_equal(model: MAEASTModel) -> None:
    check_batch_invariance(model, log_mels(4, 96), [96, 33, 64, 5])


def test_values_of_padding_do_not_act(model: MAEASTModel) -> None:
    clips, mask = log_mels(2, 96), mask_of([96, 48], 96)
    other = clips.clone()
    other[1, 48:] = 7.0
    with torch.no_grad():
        torch.testing.assert_close(model(clips, mask).pooler_output, model(other, mask).pooler_output)


def test_frames_that_do_not_fill_a_token_are_dropped(model: MAEASTModel) -> None:
    clips = log_mels(2, 81)
    with torch.no_grad():
        expected = model(clips[:, :80], mask_of([80, 60], 80))
        output = model(clips, mask_of([81, 60], 81))
    assert torch.equal(output.last_hidden_state, expected.last_hidden_state)


def test_eager_equals_sdpa(model: MAEASTModel) -> None:
    check_attention_implementations(model, log_mels(2, 64), [64, 40])


def test_hidden_states_and_attention_weights(model: MAEASTModel) -> None:
    check_recorded_outputs(model, log_mels(2, 64))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(model: MAEASTModel, reentrant: bool) -> None:
    inputs = {"input_values": log_mels(2, 64), "attention_mask": mask_of([64, 40], 64)}
    check_gradient_checkpointing(model, inputs, reentrant)


def test_initialisation_sets_every_value(model: MAEASTModel) -> None:
    check_initialisation(MAEASTModel, model.config)


def test_saves_and_loads_bit_equal(model: MAEASTModel, tmp_path: Path) -> None:
    check_saving(model, {"input_values": log_mels(2, 64)}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", *CODE}
    assert type(AutoModel.from_pretrained(tmp_path)) is MAEASTModel
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MAEASTConfig)


def test_loaded_table_wins_and_a_missing_one_is_computed(tmp_path: Path) -> None:
    model = make()
    model.embeddings.position_embeddings += 1
    model.save_pretrained(tmp_path)
    table = model.embeddings.position_embeddings
    assert torch.equal(MAEASTModel.from_pretrained(tmp_path).embeddings.position_embeddings, table)
    state = load_file(tmp_path / "model.safetensors")
    del state["embeddings.position_embeddings"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    computed = MAEASTModel.from_pretrained(tmp_path).embeddings.position_embeddings
    torch.testing.assert_close(computed, table - 1, atol=1e-6, rtol=0)


def test_one_step_of_tuning(model: MAEASTModel) -> None:
    check_tuning_step(model)


def test_embedder_averages_windows_of_long_recordings(model: MAEASTModel) -> None:
    config = model.config
    extractor = front_end("mae_ast", mean=-6.0, std=4.0, max_length=96, patch_size=config.patch_size)
    wave = np.random.default_rng(0).normal(0, 0.1, 40_000).astype(np.float32)
    embedder = AudioEmbedder(model, extractor)
    vectors = embedder.encode([wave, wave[:9000]], progress_bar=False)
    assert vectors.shape == (2, config.embedding_size)
    with torch.no_grad():
        alone = model(**extractor(wave[:9000], sampling_rate=16_000, return_tensors="pt")).pooler_output[0]
    np.testing.assert_allclose(vectors[1], alone.numpy(), atol=1e-5)


def test_bfloat16_stays_close() -> None:
    model, clips = make(), log_mels(2, 64)
    with torch.no_grad():
        expected = model(clips).pooler_output
        half = model.to(torch.bfloat16)(clips).pooler_output
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=5e-2, rtol=5e-2)


@pytest.mark.slow
def test_compiled_model_is_equal() -> None:
    model, clips = make(), log_mels(2, 64)
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(clips).pooler_output
        torch.testing.assert_close(compiled, model(clips).pooler_output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "frames,mask,message",
    [(112, None, "takes 96"), (8, None, "fewer than patch_size"), (64, torch.ones(2, 32), "one value per frame"),
     (64, torch.zeros(2, 64), "all 0 in rows")],
)  # fmt: skip
def test_wrong_inputs_are_refused(frames: int, mask: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()(log_mels(2, frames), mask)


def test_passes_are_equal_and_hidden_states_have_gradients() -> None:
    check_determinism_and_hidden_gradients(make(), log_mels(2, 64))


def test_unknown_arguments_are_refused() -> None:
    check_refused_arguments(make(), log_mels(1, 64))
    with pytest.raises(ValueError, match="expected"):
        make()(torch.zeros(1, 64, 64))


@pytest.mark.parametrize(
    "fields", [{"max_length": 100}, {"patch_mel_bins": 100}, {"num_attention_heads": 5}, {"hidden_size": 27}]
)
def test_sizes_that_do_not_divide_are_refused(fields: dict) -> None:
    with pytest.raises(StrictDataclassError, match="is not a multiple of"):
        make(**fields)


@pytest.mark.slow
def test_folder_computes_alike_where_the_package_is_absent(tmp_path: Path) -> None:
    extractor = front_end("mae_ast", mean=-6.0, std=4.0, max_length=1024)
    check_remote_code(make(max_length=1024), extractor, tmp_path)


def test_extractor_of_a_saved_folder_is_found(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    front_end("mae_ast", mean=-6.0, std=4.0, max_length=96).save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).mean == -6.0
