"""SSAMBA's encoder: scan, invariances, transformers' conventions, errors. Official outputs: test_convert_ssamba.py."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_checks import (
    check_determinism_and_hidden_gradients,
    check_gradient_checkpointing,
    check_initialisation,
    check_refused_arguments,
    check_remote_code,
    check_saving,
    check_tuning_step,
    log_mels,
    mask_of,
    scramble,
)
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel

from uamix_hf import AudioEmbedder, AudioMAEFeatureExtractor, SSAMBAConfig, SSAMBAModel
from uamix_hf.models.ssamba import modeling_ssamba
from uamix_hf.models.ssamba.modeling_ssamba import kernel_scan, selective_scan

CODE = {"configuration_ssamba.py", "modeling_ssamba.py"}


def make(**fields) -> SSAMBAModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "time_step_rank": 3, "state_size": 5, "max_length": 96}
    model = SSAMBAModel(SSAMBAConfig(**{**sizes, **fields}))
    scramble(model)
    return model.eval()


@pytest.fixture
def model() -> SSAMBAModel:
    return make()


def arguments(length: int, states: int = 3) -> list[torch.Tensor]:
    """Inputs, time steps, rates, B and C of a scan of 2 clips in 2 directions and 4 channels."""
    generator = torch.Generator().manual_seed(length)
    values, step, input_weight, output_weight = (
        torch.randn(2, length, 2, size, generator=generator) for size in (4, 4, states, states)
    )
    return [values, step.exp() / 4, -4 * torch.rand(2, states, 4, generator=generator), input_weight, output_weight]


def one_by_one(values, step, rate, input_weight, output_weight) -> torch.Tensor:
    """The recurrence, number by number, in float64."""
    output = torch.zeros(values.shape, dtype=torch.float64)
    values, step, rate, input_weight, output_weight = (
        tensor.double() for tensor in (values, step, rate, input_weight, output_weight)
    )
    for clip, direction, channel in np.ndindex(len(values), *values.shape[2:]):
        state = torch.zeros(rate.shape[1], dtype=torch.float64)
        for t in range(values.shape[1]):
            size = step[clip, t, direction, channel]
            state = (size * rate[direction, :, channel]).exp() * state
            state = state + size * input_weight[clip, t, direction] * values[clip, t, direction, channel]
            output[clip, t, direction, channel] = output_weight[clip, t, direction] @ state
    return output


@pytest.mark.parametrize("length", [1, 16, 17, 45])
def test_scan_is_the_recurrence(length: int) -> None:
    expected = one_by_one(*arguments(length))
    with torch.no_grad():
        torch.testing.assert_close(selective_scan(*arguments(length)).double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(selective_scan(*arguments(length)).double(), expected, atol=1e-5, rtol=1e-5)


def test_gradients_of_the_scan_are_those_of_the_recurrence() -> None:
    inputs = [tensor.requires_grad_() for tensor in arguments(19)]
    weight = torch.randn(2, 19, 2, 4, generator=torch.Generator().manual_seed(3))
    expected = torch.autograd.grad((step_by_step(*inputs) * weight).sum(), inputs)
    actual = torch.autograd.grad((selective_scan(*inputs) * weight).sum(), inputs)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_training_keeps_no_state_of_each_step() -> None:
    """What is kept for the gradients grows by inputs and outputs, which are as long as the clip, and not by states."""
    kept = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    def kept_by(scan: Callable[..., torch.Tensor]) -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            scan(*(tensor.requires_grad_() for tensor in arguments(64, states=24)))
        return sum(kept)

    states = 2 * 64 * 2 * 24 * 4
    assert kept_by(selective_scan) < states < kept_by(step_by_step)


def step_by_step(values, step, rate, input_weight, output_weight) -> torch.Tensor:
    state, outputs = torch.zeros(2, *rate.shape), []
    for t in range(values.shape[1]):
        drive = torch.einsum("bgn,bgd->bgnd", input_weight[:, t], step[:, t] * values[:, t])
        state = (step[:, t, :, None] * rate).exp() * state + drive
        outputs.append(torch.einsum("bgn,bgnd->bgd", output_weight[:, t], state))
    return torch.stack(outputs, 1)


def test_a_step_of_zero_leaves_the_state_as_it_is() -> None:
    values, step, rate, input_weight, output_weight = arguments(20)
    step[:, 5:12] = 0
    keep = [*range(5), *range(12, 20)]
    with torch.no_grad():
        whole = selective_scan(values, step, rate, input_weight, output_weight)[:, keep]
        cut = selective_scan(
            *(t[:, keep] for t in (values, step)), rate, *(t[:, keep] for t in (input_weight, output_weight))
        )
    torch.testing.assert_close(whole, cut)


def test_scan_stays_in_float32_under_autocast() -> None:
    expected = selective_scan(*arguments(20))
    with torch.autocast("cpu", torch.bfloat16):
        actual = selective_scan(*arguments(20))
    assert actual.dtype == torch.float32 and torch.equal(actual, expected)


def test_kernel_gets_what_mamba_ssm_documents(monkeypatch) -> None:
    """A stand-in for the kernel, which runs on GPUs alone: (batch, channels, length), weights by group of channels."""

    def selective_scan_fn(u, delta, A, B, C):
        assert all(tensor.is_contiguous() for tensor in (u, delta, A, B, C))
        batch, channels, length = u.shape
        per_group = channels // B.shape[1]
        state, outputs = torch.zeros(batch, channels, A.shape[1]), []
        for t in range(length):
            b, c = (weight[..., t].repeat_interleave(per_group, dim=1) for weight in (B, C))
            state = (delta[:, :, t, None] * A).exp() * state + (delta[:, :, t] * u[:, :, t])[..., None] * b
            outputs.append((state * c).sum(-1))
        return torch.stack(outputs, -1)

    monkeypatch.setattr(modeling_ssamba, "selective_scan_fn", selective_scan_fn)
    torch.testing.assert_close(kernel_scan(*arguments(20)), selective_scan(*arguments(20)))


@torch.no_grad()
def test_clip_alone_and_in_a_padded_batch_are_equal(model: SSAMBAModel) -> None:
    clips, lengths = log_mels(4, 96), [96, 33, 64, 5]
    batch = model(clips, mask_of(lengths, 96))
    for row, length in enumerate(lengths):
        columns = -(-length // 16)
        alone = model(clips[row : row + 1, : 16 * columns])
        torch.testing.assert_close(batch.pooler_output[row], alone.pooler_output[0], atol=1e-5, rtol=1e-5)
        actual, expected = (
            output[1:].unflatten(0, (8, -1))[:, :columns]
            for output in (batch.last_hidden_state[row], alone.last_hidden_state[0])
        )
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(batch.last_hidden_state[row, 0], alone.last_hidden_state[0, 0], atol=1e-5, rtol=1e-5)


def test_padding_is_zero_and_its_values_do_not_act(model: SSAMBAModel) -> None:
    clips, mask = log_mels(2, 96), mask_of([96, 48], 96)
    other = clips.clone()
    other[1, 48:] = 7.0
    with torch.no_grad():
        output = model(clips, mask)
        assert torch.equal(output.last_hidden_state, model(other, mask).last_hidden_state)
        assert (output.last_hidden_state[1, 1:].unflatten(0, (8, 6))[:, 3:] == 0).all()
        assert not torch.allclose(model(clips).pooler_output, model(other).pooler_output)


def test_mask_without_padding_changes_nothing(model: SSAMBAModel) -> None:
    clips = log_mels(2, 64)
    with torch.no_grad():
        expected = model(clips).last_hidden_state
        assert torch.equal(model(clips, mask_of([64, 64], 64)).last_hidden_state, expected)
        assert torch.equal(model(clips, mask_of([64, 50], 64)).last_hidden_state, expected)  # a frame of each token


def test_patches_are_frequency_major_and_shorter_clips_take_the_middle_positions(model: SSAMBAModel) -> None:
    embeddings = model.embeddings
    clip = log_mels(1, 32)
    table = embeddings.position_embeddings[0, 1:].unflatten(0, (8, 6))
    weight = embeddings.projection.weight[:, 0]
    with torch.no_grad():
        tokens = embeddings(clip, None)
        torch.testing.assert_close(tokens[0, 0], embeddings.cls_token[0, 0] + embeddings.position_embeddings[0, 0])
        for f, t in ((0, 0), (3, 1), (7, 0)):
            patch = clip[0, 16 * t : 16 * t + 16, 16 * f : 16 * f + 16]
            expected = (weight * patch).sum((1, 2)) + embeddings.projection.bias + table[f, 2 + t]
            torch.testing.assert_close(tokens[0, 1 + 2 * f + t], expected, atol=1e-5, rtol=1e-5)


def test_frame_tokens() -> None:
    model = make(patch_size=2, patch_mel_bins=128)
    with torch.no_grad():
        assert model(log_mels(1, 64)).last_hidden_state.shape == (1, 33, 16)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(model: SSAMBAModel, reentrant: bool) -> None:
    inputs = {"input_values": log_mels(2, 64), "attention_mask": mask_of([64, 40], 64)}
    check_gradient_checkpointing(model, inputs, reentrant)


def test_initialisation_sets_every_value() -> None:
    check_initialisation(SSAMBAModel, SSAMBAConfig(hidden_size=64, num_hidden_layers=1, time_step_rank=4))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_saves_and_loads_bit_equal(tmp_path: Path, pooling: str) -> None:
    model = make(pooling=pooling)
    check_saving(model, {"input_values": log_mels(2, 64)}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", *CODE}
    assert type(AutoModel.from_pretrained(tmp_path)) is SSAMBAModel
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SSAMBAConfig)
    with torch.no_grad():
        output = model(log_mels(1, 64))
    expected = output.last_hidden_state[:, 0] if pooling == "cls" else output.last_hidden_state[:, 1:].mean(1)
    torch.testing.assert_close(output.pooler_output, expected)


def test_fresh_scans_decay_and_step_as_in_mamba() -> None:
    torch.manual_seed(0)
    model = SSAMBAModel(SSAMBAConfig(hidden_size=64, num_hidden_layers=1, time_step_rank=4))
    for block in (model.layers[0].forward_block, model.layers[0].backward_block):
        for scan in (block.forward_scan, block.backward_scan):
            torch.testing.assert_close(scan.A_log.exp(), torch.arange(1.0, 17).expand(128, -1))
            steps = torch.nn.functional.softplus(scan.dt_proj.bias)
            assert 0.001 <= steps.min() < 0.003 and 0.03 < steps.max() <= 0.1001
            assert (scan.D == 1).all()


def test_one_step_of_tuning(model: SSAMBAModel) -> None:
    check_tuning_step(model)


def test_embedder_averages_windows_of_long_recordings(model: SSAMBAModel) -> None:
    extractor = AudioMAEFeatureExtractor(max_length=96)
    wave = np.random.default_rng(0).normal(0, 0.1, 40_000).astype(np.float32)
    vectors = AudioEmbedder(model, extractor).encode([wave, wave[:9000]], progress_bar=False)
    with torch.no_grad():
        alone = model(**extractor(wave[:9000], sampling_rate=16_000, return_tensors="pt")).pooler_output[0]
    np.testing.assert_allclose(vectors[1], alone.numpy(), atol=1e-5)


def test_bfloat16_stays_close(model: SSAMBAModel) -> None:
    clips = log_mels(2, 64)
    with torch.no_grad():
        expected = model(clips).pooler_output
        half = model.to(torch.bfloat16)(clips, mask_of([64, 64], 64)).pooler_output
        padded = model(clips, mask_of([64, 20], 64)).pooler_output
    assert half.dtype == padded.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=6e-2, rtol=6e-2)


@pytest.mark.parametrize(
    "frames,mask,message",
    [(112, None, "end at 96"), (40, None, "multiple of patch_size"), (64, torch.ones(2, 32), "one value per frame"),
     (64, torch.zeros(2, 64), "all 0 in rows")],
)  # fmt: skip
def test_wrong_inputs_are_refused(model: SSAMBAModel, frames: int, mask: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(log_mels(2, frames), mask)


def test_passes_are_equal_and_hidden_states_have_gradients(model: SSAMBAModel) -> None:
    check_determinism_and_hidden_gradients(model, log_mels(2, 64))


def test_unknown_arguments_are_refused(model: SSAMBAModel) -> None:
    check_refused_arguments(model, log_mels(1, 64))
    with pytest.raises(TypeError, match="output_attentions"):
        model(log_mels(1, 64), output_attentions=True)
    with pytest.raises(ValueError, match="expected"):
        model(torch.zeros(1, 64, 64))
    with pytest.raises(StrictDataclassError, match="is not a multiple of"):
        make(max_length=100)


@pytest.mark.slow
def test_folder_computes_alike_where_the_package_is_absent(tmp_path: Path) -> None:
    check_remote_code(make(max_length=1024), AudioMAEFeatureExtractor(), tmp_path)
