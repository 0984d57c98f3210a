"""Converted SSAMBA checkpoints against outputs of the official code, through the console command."""

import json
from pathlib import Path

import pytest
import torch
from encoder_checks import relative_error
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel

from uamix_hf import AudioMAEFeatureExtractor, SSAMBAModel
from uamix_hf.__main__ import main
from uamix_hf.models.checkpoint import CheckpointError, read_checkpoint
from uamix_hf.models.ssamba.convert_ssamba import convert_ssamba

TOLERANCE = 1e-4  # relative to the output's scale
BLOCK = "module.v.layers.1."


def assert_official(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert relative_error(actual, expected) <= TOLERANCE


@pytest.fixture(scope="module")
def target(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pretrained")
    assert main(["convert", "ssamba", str(fixtures / "ssamba" / "pretrained.pth"), str(target)]) == 0
    return target


@pytest.fixture(scope="module")
def io(fixtures: Path) -> dict[str, torch.Tensor]:
    return load_file(fixtures / "ssamba" / "pretrained_io.safetensors")


@pytest.fixture
def tensors(fixtures: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(fixtures / "ssamba" / "pretrained.pth")[0]


def test_official_outputs(target: Path, io: dict[str, torch.Tensor], fixtures: Path) -> None:
    facts = json.loads((fixtures / "ssamba" / "pretrained.json").read_text())
    model = AutoModel.from_pretrained(target).eval()
    config = model.config
    assert (2 * config.num_hidden_layers, config.time_step_rank) == (facts["depth"], facts["dt_rank"])
    assert (config.state_size, config.conv_kernel, config.expand) == (16, 4, 2) and config.max_length == 1024
    blocks = []
    hook = model.layers[0].forward_block.register_forward_hook(lambda module, args, output: blocks.append(output))
    with torch.no_grad():
        output = model(io["input_values"], output_hidden_states=True)
    hook.remove()
    assert len(output.hidden_states) == 1 + config.num_hidden_layers
    assert_official(output.hidden_states[0], io["encoder_input"])
    assert_official(output.hidden_states[0], io["residual_after_block0"])
    assert_official(blocks[0], io["hidden_after_block0"])
    assert_official(output.hidden_states[1], io["hidden_after_pair0"] + io["residual_after_pair0"])
    assert_official(output.last_hidden_state, io["last_hidden_state"])
    assert_official(output.pooler_output, io["embedding"])


def test_official_class_token(target: Path, io: dict[str, torch.Tensor]) -> None:
    model = SSAMBAModel.from_pretrained(target, pooling="cls").eval()
    with torch.no_grad():
        assert_official(model(io["input_values"]).pooler_output, io["embedding_cls"])
        assert_official(model(io["input_values"][:1, :512]).pooler_output, io["embedding_cls_512"])


@pytest.mark.parametrize("padded", [False, True])
def test_official_outputs_of_512_frames(target: Path, io: dict[str, torch.Tensor], padded: bool) -> None:
    """Also where padding to 1024 frames is masked."""
    model = SSAMBAModel.from_pretrained(target).eval()
    assert_official(
        model.embeddings.position_embeddings[:, torch.cat([torch.zeros(1).long(), middle_columns()])],
        io["pos_embed_used_512"],
    )
    with torch.no_grad():
        if padded:
            mask = torch.ones(2, 1024).long()
            mask[0, 512:] = 0
            output = model(io["input_values"], mask)
            tokens = torch.cat([torch.zeros(1).long(), 1 + torch.arange(512).reshape(8, 64)[:, :32].flatten()])
            assert_official(output.last_hidden_state[:1, tokens], io["last_hidden_state_512"])
            assert_official(output.pooler_output[1:], io["embedding"][1:])
        else:
            output = model(io["input_values"][:1, :512])
            assert_official(output.last_hidden_state, io["last_hidden_state_512"])
    assert_official(output.pooler_output[:1], io["embedding_512"])


def middle_columns() -> torch.Tensor:
    return 1 + torch.arange(512).reshape(8, 64)[:, 16:48].flatten()


def test_folder_has_the_front_end_of_audio_mae_and_a_card(target: Path) -> None:
    extractor = AutoFeatureExtractor.from_pretrained(target)
    assert extractor.to_dict() | {"auto_map": 0} == AudioMAEFeatureExtractor().to_dict() | {"auto_map": 0}
    card = (target / "README.md").read_text()
    assert "license: bsd-3-clause" in card and "Apache-2.0" in card and "2405.11831" in card
    assert (target / "model.safetensors").is_file() and not list(target.glob("*.bin"))


def test_report_names_every_key(tensors: dict[str, torch.Tensor]) -> None:
    _, _, report = convert_ssamba(tensors, {})
    assert set(report.used) | report.ignored.keys() == tensors.keys() and not report.missing
    assert "pretraining" in report.ignored["module.mask_embed"]
    assert not any("not a key" in why for why in report.ignored.values())


def test_prefix_of_parallel_models_is_optional(tensors: dict[str, torch.Tensor]) -> None:
    bare = {key.removeprefix("module."): value for key, value in tensors.items()}
    expected, actual = (convert_ssamba(each, {})[0].state_dict() for each in (tensors, bare))
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


@pytest.mark.parametrize("key", [f"{BLOCK}norm.bias", f"{BLOCK}mixer.A_b_log", "module.v.norm_f.weight"])
def test_missing_key_is_named_and_nothing_is_written(
    tensors: dict[str, torch.Tensor], tmp_path: Path, capsys, key: str
) -> None:
    del tensors[key]
    torch.save(tensors, tmp_path / "lacking.pth")
    assert main(["convert", "ssamba", str(tmp_path / "lacking.pth"), str(tmp_path / "out")]) == 1
    assert key in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_other_models_are_refused(tensors: dict[str, torch.Tensor]) -> None:
    def refused(message: str, drop: str = "none", **added: torch.Tensor) -> None:
        changed = {key: value for key, value in tensors.items() if not key.startswith(drop)}
        with pytest.raises(CheckpointError, match=message):
            convert_ssamba(changed | {f"module.{key}": value for key, value in added.items()}, {})

    refused("3 blocks", drop="module.v.layers.3.")
    refused("no module.v.patch_embed.proj.weight", drop="module.v.patch_embed")
    refused("in_proj.bias", **{"v.layers.0.mixer.in_proj.bias": torch.zeros(192)})
    refused("1212 tokens", **{"v.pos_embed": torch.zeros(1, 1213, 48)})
    refused("512 tokens", p_input_tdim=torch.tensor(512))
    refused("x_proj", **{"v.layers.1.mixer.x_proj.weight": torch.zeros(34, 96)})


def test_pickle_with_other_objects_is_refused(tensors: dict[str, torch.Tensor], tmp_path: Path, capsys) -> None:
    torch.save({"state_dict": tensors, "hyper_parameters": Path("/")}, tmp_path / "foreign.pth")
    assert main(["convert", "ssamba", str(tmp_path / "foreign.pth"), str(tmp_path / "out")]) == 1
    assert "was refused" in capsys.readouterr().err and not (tmp_path / "out").exists()
