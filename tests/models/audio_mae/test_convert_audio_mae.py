"""Converted checkpoints against outputs of the official code, through the console command and from_pretrained."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor

from uamix_hf import AudioMAEForAudioClassification, AudioMAEForPreTraining, AudioMAEModel
from uamix_hf.__main__ import main
from uamix_hf.models.checkpoint import read_checkpoint

TOLERANCE = 2e-5  # relative to the output's scale


def assert_official(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    assert ((actual - expected).abs().max() / expected.abs().max()).item() <= TOLERANCE


@pytest.fixture(scope="module")
def convert(fixtures: Path, tmp_path_factory: pytest.TempPathFactory):
    """Converts a fixture through the console command's own entry, with the head counts of its .json."""

    def run(name: str) -> Path:
        target = tmp_path_factory.mktemp(name)
        sizes = json.loads((fixtures / "audiomae" / f"{name}.json").read_text())
        arguments = ["convert", "audiomae", str(fixtures / "audiomae" / f"{name}.pth"), str(target)]
        arguments += ["--num_attention_heads", str(sizes["num_heads"])]
        if "decoder_num_heads" in sizes:
            arguments += ["--decoder_num_attention_heads", str(sizes["decoder_num_heads"])]
        assert main(arguments) == 0
        return target

    return run


@pytest.mark.parametrize("decoder_type", ["global", "local"])
def test_pretrained_layout_gives_the_official_outputs(convert, fixtures: Path, decoder_type: str) -> None:
    name = f"pretrained_{decoder_type}"
    target = convert(name)
    io = load_file(fixtures / "audiomae" / f"{name}_io.safetensors")
    model = AudioMAEForPreTraining.from_pretrained(target).eval()
    encoder = AudioMAEModel.from_pretrained(target).eval()
    assert model.config.decoder_type == decoder_type and model.config.norm_pix_loss
    with torch.no_grad():
        whole = encoder(io["input_values"], output_hidden_states=True)
        assert_official(whole.last_hidden_state, io["last_hidden_state"])
        assert_official(whole.hidden_states[1], io["hidden_after_block0"])
        assert_official(whole.pooler_output, io["last_hidden_state"][:, 1:].mean(1))
        visible = encoder(io["input_values"], mask_ratio=0.8, noise=io["noise"])
        assert_official(visible.last_hidden_state, io["latent"])
        masked = model(io["input_values"], noise=io["noise"])
        assert torch.equal(masked.mask, io["mask"]) and torch.equal(masked.ids_restore, io["ids_restore"])
        assert_official(masked.logits, io["pred"])
        assert_official(masked.loss[None], io["loss_norm_pix"])
        model.config.norm_pix_loss = False
        assert_official(model(io["input_values"], noise=io["noise"]).loss[None], io["loss_raw"])


def test_fine_tuned_layout_gives_the_official_logits(convert, fixtures: Path) -> None:
    target = convert("finetuned")
    io = load_file(fixtures / "audiomae" / "finetuned_io.safetensors")
    model = AudioMAEForAudioClassification.from_pretrained(target).eval()
    assert model.config.pooling == "mean_fc_norm" and model.config.num_labels == 7
    with torch.no_grad():
        assert_official(model(io["input_values"]).logits, io["logits"])
        assert_official(AudioMAEModel.from_pretrained(target).eval()(io["input_values"]).pooler_output, io["pooled"])


def test_command_reports_keys_and_writes_extractor_and_card(fixtures: Path, tmp_path: Path) -> None:
    source, target = fixtures / "audiomae" / "pretrained_local.pth", tmp_path / "out"
    command = [sys.executable, "-m", "uamix_hf", "convert", "audiomae", str(source), str(target)]
    done = subprocess.run([*command, "--num_attention_heads", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    keys = json.loads((target / "config.json").read_text())
    assert keys["decoder_num_attention_heads"] == 16  # one temperature per head: the file tells
    for line in (
        f"used {len(read_checkpoint(source)[0])} keys",
        "ignored 0 keys",
        "missing 0 keys",
        "blocks.0.attn.qkv.weight",
        "decoder_blocks.15.attn.tau",
    ):
        assert line in done.stdout
    extractor = AutoFeatureExtractor.from_pretrained(target)
    assert (extractor.max_length, extractor.mean) == (1024, -4.2677393)
    card = (target / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card and "contradictory" in card
    assert not list(target.glob("*.bin")) and (target / "model.safetensors").is_file()


def test_head_counts_that_do_not_divide_are_refused(fixtures: Path, tmp_path: Path, capsys) -> None:
    source = str(fixtures / "audiomae" / "finetuned.pth")
    assert main(["convert", "audiomae", source, str(tmp_path / "out")]) == 1
    assert "--num_attention_heads" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_env_prints_versions(capsys) -> None:
    assert main(["env"]) == 0
    printed = capsys.readouterr().out
    assert f"torch {torch.__version__}" in printed and "uamix_hf 0." in printed
