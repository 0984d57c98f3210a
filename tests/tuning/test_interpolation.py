"""Interpolated weights against arithmetic; LoRA's against the weights that are merged."""

import copy

import pytest
import torch
from all_encoders import make_encoder
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from transformers import set_seed

from uamix_hf import AudioMAEModel
from uamix_hf.embedding.peft_folders import merged
from uamix_hf.training import LoraError
from uamix_hf.tuning.interpolation import check_interpolation, interpolate

TARGETS = ["q_proj", "v_proj"]


@pytest.fixture
def start(encoder_config) -> AudioMAEModel:
    set_seed(0)
    return AudioMAEModel(encoder_config)


def moved(encoder: torch.nn.Module) -> torch.nn.Module:
    """A copy with other weights, but for those of the first layer."""
    torch.manual_seed(1)
    tuned = copy.deepcopy(encoder)
    for name, value in tuned.named_parameters():
        if not name.startswith("layers.0."):
            value.data += torch.randn(value.shape)
    return tuned


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.9])
def test_weights_are_between_those_before_and_after_tuning(start, fraction: float) -> None:
    tuned = moved(start)
    before, after = copy.deepcopy(start).state_dict(), copy.deepcopy(tuned).state_dict()
    check_interpolation(tuned)
    interpolate(tuned, start, fraction)
    for name, value in tuned.state_dict().items():
        torch.testing.assert_close(value, (1 - fraction) * before[name] + fraction * after[name], atol=1e-6, rtol=1e-5)
        if name.startswith("layers.0."):
            assert torch.equal(value, before[name])
        assert torch.equal(start.state_dict()[name], before[name])


def test_weights_in_half_precision_keep_it(start) -> None:
    half = start.to(torch.bfloat16)
    tuned = moved(half)
    expected = {
        name: (0.7 * value.double() + 0.3 * tuned.state_dict()[name].double()).bfloat16()
        for name, value in half.state_dict().items()
    }
    interpolate(tuned, half, 0.3)
    for name, value in tuned.state_dict().items():
        assert value.dtype == torch.bfloat16
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=2**-7)


def test_statistics_of_batch_norms_are_interpolated_and_counters_are_not() -> None:
    start = make_encoder("wav2vec2-conformer")
    tuned = copy.deepcopy(start)
    norms = [
        [module for module in part.modules() if isinstance(module, torch.nn.BatchNorm1d)] for part in (start, tuned)
    ]
    for norm in norms[1]:
        norm.running_mean += 2
        norm.num_batches_tracked += 7
    interpolate(tuned, start, 0.5)
    assert norms[0]
    for before, after in zip(*norms, strict=True):
        torch.testing.assert_close(after.running_mean, before.running_mean + 1)
        assert after.num_batches_tracked == before.num_batches_tracked + 7


@pytest.mark.parametrize("kind", ["wrapped", "added"])
def test_lora_is_scaled_to_the_merged_weights_between(start, kind: str) -> None:
    base, config = copy.deepcopy(start), LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS)
    if kind == "added":
        base.add_adapter(config)
        tuned = base
    else:
        tuned = get_peft_model(base, config)
    check_interpolation(tuned)
    for name, value in tuned.named_parameters():
        if "lora_" in name:
            value.data += 0.1 * torch.randn(value.shape)
    after = merged(tuned).state_dict()
    interpolate(tuned, start, 0.3)
    between = merged(tuned).state_dict()
    assert not torch.allclose(after["layers.0.attention.q_proj.weight"], start.layers[0].attention.q_proj.weight)
    for name, value in start.state_dict().items():
        torch.testing.assert_close(between[name], 0.7 * value + 0.3 * after[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "config, part",
    [
        (LoraConfig(r=2, target_modules=TARGETS, use_dora=True), "magnitude"),
        (LoraConfig(r=2, target_modules=TARGETS, bias="all"), "bias"),
        (IA3Config(target_modules=TARGETS, feedforward_modules=[]), "ia3"),
    ],
)
def test_adapters_that_scaling_would_not_interpolate_are_refused(start, config, part: str) -> None:
    with pytest.raises(LoraError, match=f"{part}.* is trained, and scaling"):
        check_interpolation(get_peft_model(start, config))


def test_adapters_that_have_been_trained_are_refused(start) -> None:
    tuned: PeftModel = get_peft_model(start, LoraConfig(r=2, target_modules=TARGETS, init_lora_weights=False))
    with pytest.raises(LoraError, match="trained already .*lora_B"):
        check_interpolation(tuned)
