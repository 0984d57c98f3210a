"""The benchmarks of encoder, pretraining and features: they run, and what they compare does the same work."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import encoder  # noqa: E402
import features  # noqa: E402
import kaldi_fbank  # noqa: E402
import pretraining  # noqa: E402

BARS = {
    "encoder": {"10 s": 1.0, "5 s": 1.9, "1 s": 7.0, "1024 frames": None},
    "pretraining": {"step": 1.0},
    "features": {"ASTFeatureExtractor in NumPy": 4.0, "Kaldi's algorithm in torch": 1.0},
}


SLOW = {"encoder", "pretraining"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in BARS]
)
def test_benchmark_runs_and_writes_its_table(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--small", "--repeats", "2", "--threads", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([*command, "--output_dir", str(tmp_path)], env=environment, check=True)
    record = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert {row["case"].partition(",")[0]: row["bar"] for row in record["rows"]} == BARS[name]
    for row in record["rows"]:
        assert all(math.isfinite(row[part]) and row[part] > 0 for part in ("value", "low", "high"))
        assert float(row["ours"].partition(" ")[0].replace(",", "")) > 0


def test_encoders_are_of_one_size_and_their_blocks_equal_given_equal_weights() -> None:
    ours, peer = encoder.models(encoder.SMALL)
    assert ours.config._attn_implementation == peer.config._attn_implementation == "sdpa"
    assert len(ours.layers) == len(peer.layers) == 2
    hidden = torch.randn(2, 20, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for own, theirs in zip(ours.layers, peer.layers, strict=True):
            own.load_state_dict(theirs.state_dict())
            torch.testing.assert_close(own(hidden), theirs(hidden), atol=1e-5, rtol=0)


def test_encoders_see_as_many_tokens_as_said() -> None:
    models = dict(zip(("ours", "peer"), encoder.models(encoder.SMALL), strict=True))
    tokens: dict[str, list[int]] = {"ours": [], "peer": []}
    for name, model in models.items():
        model.layers[0].register_forward_pre_hook(lambda _, args, n=name: tokens[n].append(args[0].shape[1]))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "models", lambda size: tuple(models.values()))
        for work in encoder.sides(encoder.SMALL, batch=2).values():
            assert work().shape == (2, 48)
    assert tokens == {"ours": [1 + 63 * 8, 1 + 32 * 8, 1 + 7 * 8, 1 + 64 * 8], "peer": [2 + 64 * 8]}


def as_ours(name: str) -> str:
    """Our name of a weight of ViTMAE."""
    renamed = {"decoder_layers": "layers", "decoder_norm": "layernorm", "decoder_pred": "predict"}
    renamed |= {"decoder_embed": "embed", "decoder_pos_embed": "position_embeddings", "vit": "audio_mae"}
    return ".".join(renamed.get(part, part) for part in name.split("."))


def test_three_steps_of_pretraining_have_the_losses_of_vitmae() -> None:
    """On a square input both models see the same patches, so that loss, gradients and updates must agree."""
    torch.manual_seed(0)
    case = pretraining.Case(pretraining.SMALL.size, batch=2, frames=80, mel_bins=80, image_size=80)
    ours, peer = pretraining.models(case)
    ours.load_state_dict({as_ours(name): value for name, value in peer.state_dict().items()})
    clips, _ = pretraining.inputs(case)
    noise = torch.rand(2, 25, generator=torch.Generator().manual_seed(1))
    own = pretraining.training_step(ours, input_values=clips, noise=noise)
    theirs = pretraining.training_step(peer, pixel_values=clips[:, None], noise=noise)
    losses = torch.tensor([[own(), theirs()] for _ in range(3)])
    torch.testing.assert_close(losses[:, 0], losses[:, 1], atol=1e-5, rtol=0)
    assert losses[2, 0] < losses[0, 0] - 1e-3


@pytest.mark.parametrize("case", [pretraining.BASE, pretraining.SMALL])
def test_pretraining_inputs_have_nearly_as_many_tokens(case: pretraining.Case) -> None:
    clips, images = pretraining.inputs(case)
    ours, peer = case.tokens["ours"] / len(clips), case.tokens[pretraining.PEER] / len(images)
    assert (ours, peer) == (clips[0].numel() / 256, images[0].numel() / 256)
    assert ours == peer - 1
    assert int(ours * (1 - 0.8)) == int(peer * (1 - 0.8))


def test_kaldis_algorithm_and_ours_give_the_same() -> None:
    clips = features.make_clips(2, 3) + [features.make_clips(1, 0.5)[0] * 1e-3]
    ours, theirs = (work() for work in features.kaldi_sides(clips).values())
    assert [mel.shape for mel in ours] == [(298, 128), (298, 128), (48, 128)]
    for own, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, their, atol=1e-4, rtol=0)


def test_kaldis_algorithm_equals_kaldi_on_real_values(fixtures: Path) -> None:
    from safetensors.torch import load_file

    kaldi = load_file(fixtures / "fbank_kaldi.safetensors")
    names = [name.removesuffix(".waveform") for name in kaldi if name.endswith(".waveform")]
    assert len(names) == 7
    for name in names:
        energies = kaldi_fbank.fbank(kaldi[f"{name}.waveform"], kaldi_fbank.mel_banks()).exp()
        expected = kaldi[f"{name}.fbank"].exp()
        assert ((energies - expected).abs() / expected.amax(dim=1, keepdim=True)).max() < 2e-5


def test_asts_extractor_and_ours_give_the_same() -> None:
    ours, theirs = (work() for work in features.numpy_sides(features.make_clips(2, 3)).values())
    assert ours.shape == (2, 1024, 128) and ours.dtype == theirs.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=3e-4, rtol=0)
