"""BEATs' classes: invariances, transformers' conventions, errors. Official outputs: test_convert_beats.py."""

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
    check_saving,
    log_mels,
    mask_of,
    scramble,
)
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from uamix_hf import (
    BeatsConfig,
    BeatsForAudioClassification,
    BeatsModel,
)
from uamix_hf.models.beats.modeling_beats import frames_to_tokens, relative_position_buckets

CLASSES = [BeatsModel, BeatsForAudioClassification]


@pytest.fixture(params=["all", "any"])
def token_padding(request) -> str:
    return request.param


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_clips_embedding_does_not_depend_on_its_batch(model, token_padding: str, implementation: str) -> None:
    """Tokens of padding are set to zero, which is what the position convolution reads beyond a clip's end."""
    model.config.token_padding = token_padding
    model.set_attn_implementation(implementation)
    check_batch_invariance(model, log_mels(3, 192), [192, 86, 21])


def test_what_is_in_the_padding_has_no_effect(model: BeatsModel, token_padding: str) -> None:
    model.config.token_padding = token_padding
    clips, mask = log_mels(2, 96), mask_of([96, 32], 96)
    changed = clips.clone()
    changed[1, 32:] = 1e3
    with torch.no_grad():
        assert torch.equal(model(clips, mask).pooler_output, model(changed, mask).pooler_output)


def test_a_mask_of_ones_is_no_mask(model: BeatsModel) -> None:
    with torch.no_grad():
        whole, masked = model(log_mels(2, 64)), model(log_mels(2, 64), mask_of([64, 64], 64))
    assert torch.equal(whole.last_hidden_state, masked.last_hidden_state)


def test_frames_to_tokens_by_each_rule(config: BeatsConfig) -> None:
    """A clip of 37 of 48 frames: 2 whole patches and 5 frames of the third."""
    mask = mask_of([37], 48)
    # BEATs: token k covers frames 2k and 2k + 1, whatever its frequency band.
    expected = torch.tensor([any(mask[0, 2 * k : 2 * k + 2]) for k in range(24)])
    assert torch.equal(frames_to_tokens(mask, config)[0], expected) and expected.sum() == 19
    config.token_padding = "any"
    assert frames_to_tokens(mask, config)[0].tolist() == [True] * 16 + [False] * 8


def test_frames_that_fill_no_patch_are_dropped(model: BeatsModel) -> None:
    clips = log_mels(2, 60)
    with torch.no_grad():
        whole, cut = model(clips, mask_of([60, 40], 60)), model(clips[:, :48], mask_of([48, 40], 48))
    assert whole.last_hidden_state.shape == (2, 3 * 8, 48)
    assert torch.equal(whole.last_hidden_state, cut.last_hidden_state)


def test_input_longer_than_max_length_is_taken(model: BeatsModel) -> None:
    with torch.no_grad():
        assert model(log_mels(1, 224)).last_hidden_state.shape == (1, 14 * 8, 48)


def test_buckets_are_exact_near_and_logarithmic_far() -> None:
    """Against the formula in double precision, one distance at a time."""

    def bucket(distance: int) -> int:
        size = abs(distance)
        if size >= 80:
            size = min(159, 80 + int(np.log(size / 80) / np.log(800 / 80) * 80))
        return size + 160 * (distance > 0)

    distances = torch.arange(-1200, 1201)
    assert relative_position_buckets(distances, 320, 800).tolist() == [bucket(d) for d in distances.tolist()]


def test_position_bias_depends_on_the_distance_alone(model: BeatsModel) -> None:
    bias = model.relative_position_bias(24)
    assert bias.shape == (4, 24, 24)
    table = model.relative_position_bias.embedding.weight
    for query, key in ((0, 0), (3, 20), (20, 3), (23, 0)):
        bucket = abs(key - query) + 160 * (key > query)
        assert torch.equal(bias[:, query, key], table[bucket])


def test_gate_is_the_closed_form(model: BeatsModel) -> None:
    attention = model.layers[0].attention
    query, bias = torch.randn(2, 4, 5, 12), torch.randn(4, 5, 5)
    actual = attention.gated_bias(query, bias)
    for clip, head, place in ((0, 0, 0), (1, 3, 4), (1, 2, 0)):
        values = attention.gate_proj.weight @ query[clip, head, place] + attention.gate_proj.bias
        first, second = values[:4].sum().sigmoid(), values[4:].sum().sigmoid()
        gate = first * (second * attention.gate_scale[0, head, 0, 0] - 1) + 2
        torch.testing.assert_close(actual[clip, head, place], gate * bias[head, place])


def test_eager_equals_sdpa_and_flash_is_refused(model: BeatsModel) -> None:
    check_attention_implementations(model, log_mels(2, 128), [128, 40])


def test_hidden_states_attentions_and_tuples(model: BeatsModel) -> None:
    check_recorded_outputs(model, log_mels(2, 64))
    output = model(log_mels(2, 64), output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)  # there is no final norm


@pytest.mark.parametrize("kind", CLASSES)
def test_save_and_load_is_bit_equal(config: BeatsConfig, tmp_path: Path, kind: type) -> None:
    model = kind(config).eval()
    scramble(model)
    check_saving(model, {"input_values": log_mels(2, 80), "attention_mask": mask_of([80, 40], 80)}, tmp_path)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_weight_is_initialised_however_a_model_is_made(config: BeatsConfig, kind: type) -> None:
    check_initialisation(kind, config)


def test_initialisation_is_deepnets(config: BeatsConfig) -> None:
    layer = BeatsModel(config).layers[0]
    gain = (8 * 3) ** -0.25
    for linear, expected in ((layer.attention.q_proj, 1.0), (layer.attention.v_proj, gain), (layer.mlp.fc1, gain)):
        xavier = (2 / sum(linear.weight.shape)) ** 0.5
        assert linear.weight.std().item() == pytest.approx(expected * xavier, rel=0.1)
    assert BeatsConfig(deep_norm=False).residual_scale == BeatsConfig(deep_norm=False).residual_gain == 1
    assert layer.residual_scale == pytest.approx(6**0.25) and not layer.mlp.fc1.bias.any()


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(model: BeatsModel, reentrant: bool) -> None:
    check_gradient_checkpointing(
        model, {"input_values": log_mels(2, 64), "attention_mask": mask_of([64, 40], 64)}, reentrant
    )


def test_passes_are_equal_and_hidden_states_have_gradients(model: BeatsModel) -> None:
    check_determinism_and_hidden_gradients(model, log_mels(2, 64))


@pytest.mark.parametrize("kind", CLASSES)
def test_an_argument_that_would_go_nowhere_is_refused(config: BeatsConfig, kind: type) -> None:
    check_refused_arguments(kind(config), log_mels(1, 64))


def test_wrong_shapes_are_errors_that_name_both_values(model: BeatsModel) -> None:
    with pytest.raises(ValueError, match=r"\(1, 64, 80\).*128"):
        model(torch.zeros(1, 64, 80))
    with pytest.raises(ValueError, match="15 frames.*patch_size=16"):
        model(log_mels(1, 15))
    with pytest.raises(ValueError, match=r"\(1, 32\).*\(1, 64\)"):
        model(log_mels(1, 64), torch.ones(1, 32))
    with pytest.raises(ValueError, match=r"no token in rows \[1\]"):
        model(log_mels(2, 64), mask_of([64, 0], 64))
    model.config.token_padding = "any"
    with pytest.raises(ValueError, match=r"no token in rows \[1\].*'any'"):
        model(log_mels(2, 64), mask_of([64, 15], 64))


@pytest.mark.parametrize(
    "fields",
    [
        {"max_length": 1000}, {"num_mel_bins": 100}, {"num_attention_heads": 7}, {"num_conv_pos_embedding_groups": 7},
        {"num_buckets": 2}, {"max_bucket_distance": 80}, {"token_padding": "some"}, {"pooling": "cls"},
        {"hidden_size": "768"}, {"num_mel_bins": 48},
    ],
)  # fmt: skip
def test_impossible_configurations_are_refused(fields: dict) -> None:
    with pytest.raises(StrictDataclassError, match=next(iter(fields))):
        BeatsConfig(**fields)


def test_a_misspelt_field_is_named(caplog) -> None:
    BeatsConfig(token_paddign="any")
    assert "BeatsConfig has no field token_paddign" in caplog.text


@pytest.mark.parametrize(
    "problem,labels,reference",
    [
        ("single_label_classification", torch.tensor([1, 3]), nn.functional.cross_entropy),
        ("multi_label_classification", torch.eye(5)[:2], nn.functional.binary_cross_entropy_with_logits),
        ("regression", torch.randn(2, 5), nn.functional.mse_loss),
    ],
)
def test_classification_losses(config: BeatsConfig, problem: str, labels: torch.Tensor, reference) -> None:
    config.problem_type = problem
    model = BeatsForAudioClassification(config).eval()
    scramble(model)
    output = model(log_mels(2, 64), labels=labels)
    assert output.logits.shape == (2, 5)
    torch.testing.assert_close(output.loss, reference(output.logits, labels))


@pytest.mark.parametrize("batches", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_compiled_without_a_graph_break_it_computes_the_same(config: BeatsConfig, batches: int) -> None:
    config.num_hidden_layers = 1
    model = BeatsModel(config).eval()
    scramble(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        for frames, lengths in ((64, [64, 40]), (96, [96, 96]))[:batches]:
            clips, mask = log_mels(2, frames), mask_of(lengths, frames)
            expected = model(clips, mask).pooler_output
            torch.testing.assert_close(compiled(clips, mask).pooler_output, expected, atol=1e-5, rtol=1e-5)


def test_half_precision_stays_close(model: BeatsModel) -> None:
    clips, mask = log_mels(2, 64), mask_of([64, 40], 64)
    with torch.no_grad():
        expected = model(clips, mask).pooler_output
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(clips, mask).pooler_output
        half = model.to(torch.bfloat16)(clips, mask).pooler_output
    assert half.dtype == torch.bfloat16
    for close in (mixed, half):
        torch.testing.assert_close(close.float(), expected, atol=0.1, rtol=0.1)
