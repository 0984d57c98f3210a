"""Converted MAE-AST checkpoints against outputs of the official code, through the console command."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_checks import relative_error
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel

from uamix_hf import MAEASTModel
from uamix_hf.__main__ import main
from uamix_hf.models.checkpoint import CheckpointError, read_checkpoint
from uamix_hf.models.mae_ast.convert_mae_ast import convert_mae_ast

TOLERANCE = 5e-5  # relative to the output's scale


def assert_official(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert relative_error(actual, expected) <= TOLERANCE


@pytest.fixture(scope="module", params=["patch", "frame"])
def converted(request, fixtures: Path, tmp_path_factory: pytest.TempPathFactory):
    """Folder of a converted fixture, its inputs and outputs, and its .json."""
    folder, target = fixtures / "mae_ast", tmp_path_factory.mktemp(request.param)
    assert main(["convert", "mae_ast", str(folder / f"{request.param}.pth"), str(target)]) == 0
    facts = json.loads((folder / f"{request.param}.json").read_text())
    return target, load_file(folder / f"{request.param}_io.safetensors"), facts


@pytest.fixture
def content(fixtures: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return read_checkpoint(fixtures / "mae_ast" / "patch.pth")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_official_outputs(converted, attention: str) -> None:
    target, io, facts = converted
    model = MAEASTModel.from_pretrained(target, attn_implementation=attention).eval()
    assert [model.config.patch_size, model.config.patch_mel_bins] == facts["patch_size_time_mel"]
    with torch.no_grad():
        output = model(io["input_values"], output_hidden_states=True)
        assert_official(model.embeddings.projection(model.embeddings.patches(io["input_values"]))
                        + model.embeddings.position_embeddings[:, : io["token_embedding"].shape[1]],
                        io["token_embedding"])  # fmt: skip
    assert len(output.hidden_states) == facts["depth"] + 1
    assert_official(output.hidden_states[0], io["encoder_input"])
    assert_official(output.hidden_states[1], io["hidden_after_block0"])
    assert_official(output.last_hidden_state, io["last_hidden_state"])
    assert_official(output.pooler_output, io["embedding_mean"])


def test_official_outputs_of_a_padded_batch(converted) -> None:
    target, io, _ = converted
    extractor, model = AutoFeatureExtractor.from_pretrained(target), MAEASTModel.from_pretrained(target).eval()
    valid = ~io["token_padding_mask"]
    with torch.no_grad():
        output = model(extractor.normalize(io["fbank_padded"]), (~io["frame_padding_mask"]).long())
    assert valid.sum() < valid.numel()
    assert_official(output.last_hidden_state, io["last_hidden_state_padded"])  # tokens of padding, too
    mean = torch.stack(
        [hidden[keep].mean(0) for hidden, keep in zip(io["last_hidden_state_padded"], valid, strict=True)]
    )
    assert_official(output.pooler_output, mean)


def test_official_outputs_from_the_waveform(converted) -> None:
    target, io, _ = converted
    extractor, model = AutoFeatureExtractor.from_pretrained(target), AutoModel.from_pretrained(target).eval()
    assert_official(extractor.normalize(io["fbank"]), io["input_values"])
    with torch.no_grad():
        output = model(**extractor(io["waveform"], sampling_rate=16_000, return_tensors="pt"))
    assert_official(output.last_hidden_state, io["last_hidden_state_waveform"])
    assert_official(output.pooler_output, io["embedding_mean_waveform"])


def test_extractor_has_the_running_statistics(converted, fixtures: Path) -> None:
    target, _, facts = converted
    extractor = AutoFeatureExtractor.from_pretrained(target)
    front_end = facts["front_end"]
    assert extractor.mean == front_end["running_mean"]
    assert extractor.std == pytest.approx((front_end["running_var"] + 1e-5) ** 0.5, rel=1e-9)
    assert extractor.padding_value == pytest.approx(-front_end["running_mean"] / (2 * extractor.std))
    assert (extractor.max_length, extractor.patch_size) == (800, facts["patch_size_time_mel"][0])
    card = (target / "README.md").read_text()
    assert "license: unknown" in card and "no licence file" in card and "2203.16691" in card


def test_report_names_every_key(content) -> None:
    tensors, entries = content
    _, _, report = convert_mae_ast(tensors, entries)
    assert set(report.used) | report.ignored.keys() == tensors.keys() and not report.missing
    assert {"batch_norm.running_mean", "batch_norm.running_var", "enc_sine_pos_embed.pe"} <= set(report.used)
    assert all("decoder" in report.ignored[key] for key in report.ignored if key.startswith("decoder"))
    assert not any("not a key" in why for why in report.ignored.values())
    assert "encoder_layerdrop=0.05" in " ".join(report.notes)


@pytest.mark.parametrize("key", ["encoder.layers.1.fc1.bias", "batch_norm.running_var", "enc_sine_pos_embed.pe"])
def test_missing_key_is_named_and_nothing_is_written(content, tmp_path: Path, capsys, key: str) -> None:
    tensors, entries = content
    del tensors[key]
    torch.save({"model": tensors, **entries}, tmp_path / "lacking.pt")
    assert main(["convert", "mae_ast", str(tmp_path / "lacking.pt"), str(tmp_path / "out")]) == 1
    assert key in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change,message",
    [
        ({"layer_norm_first": True}, "layer_norm_first=True"),
        ({"ast_kernel_stride_time": 10}, "ast_kernel_stride_time=10"),
        ({"encoder_attention_heads": 5}, "num_attention_heads=5"),
        ({"encoder_ffn_embed_dim": 64}, "fc1.weight"),
    ],
)
def test_settings_that_make_another_model_are_refused(content, change: dict[str, Any], message: str) -> None:
    tensors, entries = content
    entries["cfg"]["model"] |= change
    with pytest.raises(CheckpointError, match=message):
        convert_mae_ast(tensors, entries)


def test_file_without_its_cfg_is_refused(content) -> None:
    with pytest.raises(CheckpointError, match="cfg"):
        convert_mae_ast(content[0], {})


def test_pickle_with_other_objects_is_refused(content, tmp_path: Path, capsys) -> None:
    tensors, entries = content
    torch.save({"model": tensors, **entries, "task_state": Path("/")}, tmp_path / "foreign.pt")
    assert main(["convert", "mae_ast", str(tmp_path / "foreign.pt"), str(tmp_path / "out")]) == 1
    assert "was refused" in capsys.readouterr().err and not (tmp_path / "out").exists()
