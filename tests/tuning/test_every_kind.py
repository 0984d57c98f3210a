"""Every kind of encoder: what a step of tuning changes, what is saved, and that a batch has no say in an embedding."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from all_encoders import CONVERTED, KINDS, slow_but, write_encoder
from toy_sounds import tones

from uamix_hf import AudioEmbedder, UaMixForContrastiveTuning

# Others are built like one of these, but for details.
FAST = ("audiomae", "beats", "passt", "ssamba", "whisper", "clap", "wav2vec2-bert", "wav2vec2-layer-norm", "sew")
HEADS = {"projector_hidden_size": 16, "projection_size": 8, "predictor_hidden_size": 16, "queue_size": 8, "topk": 1}
FRAMES = (96, 80, 96, 64)
# Softmax takes no notice of a bias of the keys, whose gradient is rounding.
KEYS = ("k_proj.bias", "key.bias", "linear_k.bias")
# Position tables that the encoders' classes keep fixed; SSAMBA's is learnt.
FIXED = {
    "AudioMAEModel": "position_embeddings",
    "WhisperEncoder": "embed_positions.weight",
    "Qwen2AudioEncoder": "embed_positions.weight",
}


@pytest.fixture(scope="module", params=slow_but(FAST, KINDS))
def folder(request, tmp_path_factory) -> Path:
    fixtures = request.getfixturevalue("fixtures") if request.param in CONVERTED else None
    return write_encoder(request.param, tmp_path_factory.mktemp(request.param), fixtures)


@pytest.fixture
def embedder(folder: Path) -> AudioEmbedder:
    return AudioEmbedder.from_pretrained(str(folder), device="cpu")


def sounds(rate: int) -> list[np.ndarray]:
    """Clips of 0.9, 0.5 and 0.2 s."""
    return [np.resize(wave, int(rate * s)) for wave, s in zip(tones(3)[0], (0.9, 0.5, 0.2), strict=True)]


def reached(embedder: AudioEmbedder, features: torch.Tensor) -> tuple[set[str], set[str]]:
    """Names of parameters on which the embedding depends, and on which the input of the second layer depends."""
    adapter, found = embedder.adapter, []
    names, values = zip(*adapter.base.named_parameters(), strict=True)
    for value in values:
        value.requires_grad_(True)

    def record(module: Any, args: Any, kwargs: Any) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])

    handle = list(adapter.layers)[1].register_forward_pre_hook(record, with_kwargs=True)
    pooled, _ = adapter.encode(features, torch.tensor(FRAMES), 0.0, 0.0)
    handle.remove()
    sets = []
    for output in (pooled, found[0]):
        gradients = torch.autograd.grad(output.pow(2).sum(), values, retain_graph=True, allow_unused=True)
        sets.append({name for name, one in zip(names, gradients, strict=True) if one is not None and one.any()})
    return sets[0], sets[1]


@pytest.mark.parametrize("freeze_blocks", [0, 1])
def test_a_step_changes_the_weights_of_the_embedding_that_are_not_frozen(embedder, freeze_blocks: int) -> None:
    front_end, encoder = embedder.feature_extractor, embedder.model
    bins = front_end.frame_shift if front_end.domain == "waveform" else front_end.num_mel_bins
    frames = front_end.whole_patches(max(FRAMES))
    clips = torch.randn(4, frames, bins, generator=torch.Generator().manual_seed(0))
    expected, below = reached(embedder, clips)
    before, config = copy.deepcopy(encoder), encoder.config.to_dict()
    model = UaMixForContrastiveTuning.from_encoder(encoder, **HEADS).train()
    model.set_stage("tune", freeze_blocks)
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=100.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mask = torch.arange(frames) < torch.tensor(FRAMES)[:, None]
        loss = model(clips, mask.long(), torch.arange(4)).loss
        loss.backward()
    optimizer.step()
    assert loss.isfinite()
    changed = {name for name, one in encoder.named_parameters() if not torch.equal(one, before.get_parameter(name))}
    fixed = {name for name in expected if name.endswith(FIXED.get(type(encoder).__name__, "-"))}
    expected -= fixed | (below if freeze_blocks else set())
    assert {name for name in changed ^ expected if not name.endswith(KEYS)} == set()
    assert any(embedder.adapter.layers_path + ".1." in name for name in changed)
    for name, value in encoder.named_buffers():  # running statistics among them
        assert torch.equal(value, before.get_buffer(name)), name
    assert encoder.config.to_dict() == config


def test_a_clip_has_the_same_embedding_alone_and_in_a_padded_batch(embedder) -> None:
    clips = sounds(embedder.feature_extractor.sampling_rate)
    together = embedder.encode(clips, batch_size=3, progress_bar=False)
    alone = np.stack([embedder.encode(clip, progress_bar=False) for clip in clips])
    scale = np.abs(alone).max()
    assert np.abs(together - alone).max() < 1e-5 * scale
    assert min(np.abs(alone[0] - alone[1]).max(), np.abs(alone[1] - alone[2]).max()) > 1e-3 * scale


def test_a_saved_encoder_is_bit_equal_with_its_layer_and_whitening(folder: Path, embedder, tmp_path: Path) -> None:
    layers = len(embedder.adapter.layers)
    layer = layers if folder.name.startswith(("beats", "openbeats")) else layers - 1  # of BEATs, none may be left out
    chosen = AudioEmbedder.from_pretrained(str(folder), device="cpu", embedding_layer=layer)
    clips = sounds(chosen.feature_extractor.sampling_rate)
    plain = chosen.encode(clips, progress_bar=False)
    chosen.fit_whitening(clips, size=2)
    expected = chosen.encode(clips, progress_bar=False)
    assert expected.shape == (3, 2) and plain.shape[1] > 2
    chosen.save_pretrained(tmp_path)
    loaded = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu")
    assert np.array_equal(loaded.encode(clips, progress_bar=False), expected)
    state, own = loaded.model.state_dict(), chosen.model.state_dict()
    assert state.keys() == own.keys() and all(torch.equal(state[name], value) for name, value in own.items())
    config = json.loads((tmp_path / "config.json").read_text())
    if config["model_type"] == "audio_mae":  # whose own configuration has these fields
        assert (config["num_hidden_layers"], config["whitening_size"]) == (layer, 2)
        return
    recorded = json.loads((tmp_path / "embedding_config.json").read_text())
    assert recorded["whitening_size"] == 2 and (tmp_path / "embedding_whitening.safetensors").is_file()
    assert layer in (recorded["layer"], config.get("num_hidden_layers"))
