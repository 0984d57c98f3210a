"""Checks that every encoder of the package passes, whatever its architecture."""

import inspect
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from uamix_hf import AudioMAEFeatureExtractor, UaMixForContrastiveTuning
from uamix_hf.training.encoders import EncoderAdapter

HEADS = {"projector_hidden_size": 16, "projection_size": 8, "predictor_hidden_size": 16, "queue_size": 16, "topk": 1}

# Run where the package is absent.
STRANGER = """
import sys
sys.modules["uamix_hf"] = None
import numpy as np
import torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

root = Path(sys.argv[1])
for auto in (AutoConfig, AutoFeatureExtractor, AutoModel):
    try:
        auto.from_pretrained(root / "saved", trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
    else:
        raise AssertionError(f"{auto} ran code without consent")
extractor = AutoFeatureExtractor.from_pretrained(root / "saved", trust_remote_code=True)
model = AutoModel.from_pretrained(root / "saved", trust_remote_code=True).eval()
for thing in (extractor, model, model.config):
    assert type(thing).__module__.startswith("transformers_modules."), type(thing)
inputs = extractor(np.load(root / "wave.npy"), sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    save_file({"embedding": model(**inputs).pooler_output}, root / "output.safetensors")
model.save_pretrained(root / "again")
assert sys.modules["uamix_hf"] is None
"""


def log_mels(batch: int, frames: int, mel_bins: int = 128) -> torch.Tensor:
    return torch.randn(batch, frames, mel_bins, generator=torch.Generator().manual_seed(frames))


def mask_of(lengths: Sequence[int], frames: int) -> torch.Tensor:
    return (torch.arange(frames) < torch.tensor(lengths)[:, None]).long()


def scramble(model: nn.Module) -> None:
    """Changes all weights as training does: fresh ones are too small, or too equal, to show an error."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference relative to the scale of what is expected."""
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def check_saving(model: PreTrainedModel, inputs: dict[str, torch.Tensor], folder: Path) -> None:
    """A saved model loads with the same weights and buffers and computes the same to the bit; no pickle is written."""
    model.save_pretrained(folder)
    assert (folder / "model.safetensors").is_file() and not list(folder.glob("*.bin"))
    loaded = type(model).from_pretrained(folder).eval()
    for tensors in ("state_dict", "named_buffers"):
        first, second = (dict(getattr(one, tensors)()) for one in (model, loaded))
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert torch.equal(second[name], value), name
    for first, second in zip(model(**inputs).to_tuple(), loaded(**inputs).to_tuple(), strict=True):
        assert torch.equal(first, second)


@torch.no_grad()
def check_attention_implementations(model: PreTrainedModel, clips: torch.Tensor, lengths: Sequence[int]) -> None:
    """SDPA and eager attention agree with and without padding; flash and flex attention are refused."""
    for mask in (None, mask_of(lengths, clips.shape[1])):
        outputs = []
        for implementation in ("sdpa", "eager"):
            model.set_attn_implementation(implementation)
            outputs.append(model(clips, mask).pooler_output)
        torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)
    for name in ("flash_attention_2", "flex_attention"):
        with pytest.raises((ValueError, ImportError)):
            type(model)._from_config(model.config, attn_implementation=name)


@torch.no_grad()
def check_batch_invariance(model: PreTrainedModel, clips: torch.Tensor, lengths: Sequence[int]) -> None:
    """The embedding of a clip, and its tokens, are those it has alone, whatever is padded beside it."""
    patch = model.config.patch_size
    batch = model(clips, mask_of(lengths, clips.shape[1]))
    for row, length in enumerate(lengths):
        frames = math.ceil(length / patch) * patch
        alone = model(clips[row : row + 1, :frames], mask_of([length], frames))
        torch.testing.assert_close(batch.pooler_output[row], alone.pooler_output[0], atol=1e-5, rtol=1e-5)
        valid = model.token_mask(mask_of([length], frames), clips[:1, :frames])
        tokens = alone.last_hidden_state.shape[1] if valid is None else int(valid.sum())
        torch.testing.assert_close(
            batch.last_hidden_state[row, :tokens], alone.last_hidden_state[0, :tokens], atol=1e-5, rtol=1e-5
        )


def check_gradient_checkpointing(model: PreTrainedModel, inputs: dict[str, torch.Tensor], reentrant: bool) -> None:
    """Every parameter gets the gradient that it has without checkpointing."""
    model.train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.zero_grad()
        model(**inputs)[0].square().mean().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@torch.no_grad()
def check_recorded_outputs(encoder: PreTrainedModel, clips: torch.Tensor) -> None:
    """Hidden states of the input and of each layer, attention weights that sum to 1, and tuples for those who ask."""
    layers = encoder.config.num_hidden_layers
    encoder.set_attn_implementation("eager")
    output = encoder(clips, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == layers + 1 and len(output.attentions) == layers
    tokens = output.last_hidden_state.shape[1]
    for weights in output.attentions:
        assert weights.shape == (len(clips), encoder.config.num_attention_heads, tokens, tokens)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    last, pooled = encoder(clips, return_dict=False)
    torch.testing.assert_close(last, output.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled, output.pooler_output, atol=1e-5, rtol=1e-5)


def check_initialisation(kind: type[PreTrainedModel], config) -> None:
    """A model that is made on the meta device and initialised later has no value that was left as it was."""
    with torch.device("meta"):
        model = kind(config)
    model.to_empty(device="cpu")
    for value in [*model.parameters(), *model.buffers()]:
        value.data.fill_(7)
    model.init_weights()
    fresh = kind(config)
    for (name, value), other in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert not (value == 7).any(), name
        spread, expected = (one.detach().std(correction=0).item() for one in (value, other))
        assert math.isclose(spread, expected, rel_tol=0.5, abs_tol=1e-6), name
    for (name, value), other in zip(model.named_buffers(), fresh.buffers(), strict=True):
        assert torch.equal(value, other), name


def check_refused_arguments(model: PreTrainedModel, clips: torch.Tensor) -> None:
    """An argument that would have no effect is an error; those that exporters switch off are not."""
    for wrong in ({"attentoin_mask": torch.ones(clips.shape[:2])}, {"mask_ratio": 0.5}, {"input_features": clips}):
        if next(iter(wrong)) not in inspect.signature(model.forward).parameters:
            with pytest.raises(TypeError, match=next(iter(wrong))):
                model(clips, **wrong)
    output = model(clips, output_hidden_states=True, use_cache=False, inputs_embeds=None, return_dict=True)
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1


@torch.no_grad()
def check_saved_code(model: PreTrainedModel, clips: torch.Tensor, folder: Path) -> None:
    """The code in a saved folder makes a model of its own, without this package, that computes the same."""
    model.save_pretrained(folder)
    auto_map = model.config.auto_map
    names = {name for name in auto_map if name.startswith("AutoModel")}
    own = next(name for name in names if auto_map[name].endswith(f".{type(model).__name__}"))
    remote = get_class_from_dynamic_module(auto_map[own], folder)
    assert remote.__module__.startswith("transformers_modules.") and remote.config_class is not type(model.config)
    loaded = remote.from_pretrained(folder).eval()
    torch.testing.assert_close(loaded(clips)[0], model(clips)[0], atol=1e-6, rtol=1e-6)


def check_tuning_step(model: PreTrainedModel) -> None:
    """One step of contrastive tuning changes the layers and gives a finite loss."""
    adapter = EncoderAdapter(model)
    assert adapter.layers_path == "layers" and adapter.variable_length
    assert adapter.embedding_size == model.config.embedding_size
    tuned = UaMixForContrastiveTuning.from_encoder(model, **HEADS).train()
    before = [parameter.detach().clone() for parameter in model.layers.parameters()]
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = tuned(log_mels(4, 64), mask_of([64, 48, 64, 32], 64), torch.arange(4)).loss
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, model.layers.parameters(), strict=True))


def check_remote_code(model: PreTrainedModel, extractor: AudioMAEFeatureExtractor, folder: Path) -> None:
    """A saved folder computes the same in a process without the package, and what that saves is complete."""
    model.save_pretrained(folder / "saved")
    extractor.save_pretrained(folder / "saved")
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 20_000).astype(np.float32)
    np.save(folder / "wave.npy", wave)
    (folder / "elsewhere").mkdir()
    environment = os.environ | {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(folder)],
        cwd=folder / "elsewhere", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = model(**extractor(wave, sampling_rate=16_000, return_tensors="pt")).pooler_output
    torch.testing.assert_close(load_file(folder / "output.safetensors")["embedding"], expected)
    loaded = type(model).from_pretrained(folder / "again")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def check_determinism_and_hidden_gradients(model: PreTrainedModel, clips: torch.Tensor) -> None:
    """Two passes give the same bits, and every hidden state is on the way to the loss."""
    with torch.no_grad():
        first, second = (model.eval()(clips).pooler_output for _ in range(2))
    assert torch.equal(first, second)
    output = model(clips, output_hidden_states=True)
    for state in output.hidden_states:
        state.retain_grad()
    output.pooler_output.square().sum().backward()
    for number, state in enumerate(output.hidden_states):
        assert state.grad is not None and state.grad.isfinite().all() and state.grad.any(), number
