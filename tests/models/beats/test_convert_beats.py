"""Converted BEATs and OpenBEATs checkpoints against outputs of the official code, through the console command."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_checks import relative_error
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor

from uamix_hf import BeatsForAudioClassification, BeatsModel
from uamix_hf.__main__ import main
from uamix_hf.models.beats.modeling_beats import frames_to_tokens

TOLERANCE = 5e-5
# The architecture of the fine-tuned OpenBEATs fixture, as its .json has it; the checkpoint records no statistics.
STATISTICS = ["--mean", "15.66439", "--std", "6.38312"]
Converted = tuple[Path, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def convert(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Converted]:
    """`convert(system, name, *options)`: folder of a converted fixture, and the official inputs and outputs."""

    def run(system: str, name: str, *options: str) -> Converted:
        target = tmp_path_factory.mktemp(f"{system}-{name}")
        assert main(["convert", system, str(fixtures / system / f"{name}.pth"), str(target), *options]) == 0
        return target, load_file(fixtures / system / f"{name}_io.safetensors")

    return run


def assert_official(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert relative_error(actual, expected) <= TOLERANCE


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("system", "name"), [("beats", "pretrained"), ("beats", "finetuned"), ("openbeats", "pretrained")]
)
@torch.no_grad()
def test_every_stage_is_the_official_one(convert, system: str, name: str, implementation: str) -> None:
    target, io = convert(system, name)
    model = BeatsModel.from_pretrained(target, attn_implementation=implementation).eval()
    patches: list[torch.Tensor] = []
    model.embeddings.layernorm.register_forward_hook(lambda module, inputs, output: patches.append(output))
    output = model(io["input_values"], output_hidden_states=True)
    if system == "beats":
        assert_official(patches[0], io["patch_embedding_after_layer_norm"])
        assert_official(model.relative_position_bias(104), io["relative_position_bias"])
    assert_official(output.hidden_states[0], io["encoder_input"])
    assert_official(output.hidden_states[1], io["hidden_after_block0"])
    assert_official(output.last_hidden_state, io["last_hidden_state"])
    assert_official(output.pooler_output, io["embedding_mean"])
    if "input_values_long" in io:  # distances beyond max_distance
        assert_official(model(io["input_values_long"]).last_hidden_state, io["last_hidden_state_long"])


@torch.no_grad()
def test_the_fine_tuned_heads_give_the_official_probabilities(convert) -> None:
    target, io = convert("beats", "finetuned")
    model = BeatsForAudioClassification.from_pretrained(target).eval()
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == {i: f"/m/fake0{i}" for i in range(5)} and model.config.label2id["/m/fake03"] == 3
    assert_official(model(io["input_values"]).logits.sigmoid(), io["class_probabilities"])


@pytest.mark.parametrize("name", ["pretrained", "finetuned"])
@torch.no_grad()
def test_a_padded_batch_of_beats_from_the_waveform(convert, name: str) -> None:
    """The released code pads waveforms, and divides the mask of samples evenly among frames: 162 to each of 148."""
    target, io = convert("beats", name)
    extractor = AutoFeatureExtractor.from_pretrained(target)
    model = BeatsModel.from_pretrained(target).eval()
    log_mels = torch.stack(extractor.log_mels(io["waveform"]))
    valid = (~io["waveform_padding_mask"])[:, : 148 * 162].unflatten(1, (148, 162)).any(-1)
    inputs = {"input_values": extractor.normalize(log_mels), "attention_mask": valid.long()}
    tokens = ~io["token_padding_mask"]
    assert torch.equal(frames_to_tokens(inputs["attention_mask"], model.config), tokens)
    output = model(**inputs)
    assert_official(output.last_hidden_state[tokens], io["last_hidden_state_waveform"][tokens])
    if name == "finetuned":
        classifier = BeatsForAudioClassification.from_pretrained(target).eval()
        assert_official(classifier(**inputs).logits.sigmoid(), io["class_probabilities_waveform"])
    # The saved feature extractor and model, as users call them, with a clip that is not padded.
    alone = model(**extractor(io["waveform"][0], sampling_rate=16_000, return_tensors="pt"))
    assert_official(alone.last_hidden_state, io["last_hidden_state_waveform"][:1])


@torch.no_grad()
def test_a_padded_batch_of_openbeats_from_the_waveform(convert) -> None:
    target, io = convert("openbeats", "pretrained")
    extractor = AutoFeatureExtractor.from_pretrained(target)
    assert (extractor.mean, extractor.std, extractor.repeat_below) == (15.66439, 6.38312, 3200)
    assert_official(extractor.normalize(io["fbank"]), io["input_values"])
    model = BeatsModel.from_pretrained(target).eval()
    clips = [wave[:length] for wave, length in zip(io["waveform"], io["waveform_lengths"].tolist(), strict=True)]
    inputs = extractor(clips, sampling_rate=16_000, return_tensors="pt")
    assert torch.equal(frames_to_tokens(inputs["attention_mask"], model.config).sum(1), io["token_lengths"])
    output = model(**inputs)
    for row, length in enumerate(io["token_lengths"].tolist()):
        assert_official(output.last_hidden_state[row, :length], io["last_hidden_state_waveform"][row, :length])


@torch.no_grad()
def test_a_fine_tuned_openbeats_from_the_waveform(convert, capsys) -> None:
    target, io = convert("openbeats", "finetuned", *STATISTICS)
    printed = capsys.readouterr().out
    assert "note: the checkpoint does not record max_distance: 800 is assumed" in printed
    assert "fbank_mean" not in printed  # given
    extractor = AutoFeatureExtractor.from_pretrained(target)
    model = BeatsForAudioClassification.from_pretrained(target).eval()
    inputs = extractor(io["waveform"], sampling_rate=16_000, return_tensors="pt")
    assert_official(model.beats(**inputs).last_hidden_state[0], io["patch_embeddings"])
    logits = model(**inputs).logits[0]
    assert_official(logits, io["logits"])
    assert_official(logits.sigmoid(), io["class_probabilities"])


def test_statistics_that_nothing_records_are_beats_and_named(convert, capsys) -> None:
    target, _ = convert("openbeats", "finetuned")
    extractor = AutoFeatureExtractor.from_pretrained(target)
    assert (extractor.mean, extractor.std) == (15.41663, 6.55582)
    assert "note: the checkpoint does not record fbank_mean: 15.41663 is assumed" in capsys.readouterr().out
    convert("openbeats", "finetuned", "--max_distance", "1280")
    assert "max_distance" not in capsys.readouterr().out


def test_the_converted_extractor_gives_the_official_log_mels(convert, fixtures: Path) -> None:
    target, _ = convert("beats", "pretrained")
    io = load_file(fixtures / "beats" / "frontend_io.safetensors")
    inputs = AutoFeatureExtractor.from_pretrained(target)(io["waveform"], sampling_rate=16_000, return_tensors="pt")
    assert inputs["input_values"].shape == (1, 208, 128)  # of 223 frames, those that fill patches
    assert_official(inputs["input_values"][0], io["input_values"][:208])


def test_report_card_and_files(convert, capsys) -> None:
    target, _ = convert("openbeats", "pretrained")
    printed = capsys.readouterr().out
    assert "missing 0 keys" in printed and "encoder.pos_conv.0.weight_g" in printed
    assert "ignored 2 keys\n  patch_embedding_pad.weight: constant ones" in printed
    card = (target / "README.md").read_text()
    for words in ("license: cc-by-4.0", "is unresolved", "weight normalisation", "OpenBEATs: A Fully Open-Source"):
        assert words in card
    assert not list(target.glob("*.bin")) and (target / "model.safetensors").is_file()
    target, _ = convert("beats", "pretrained")
    assert "encoder_layerdrop=0.05" in capsys.readouterr().out
    card = (target / "README.md").read_text()
    assert "license: mit" in card and "microsoft/unilm" in card and "unresolved" not in card


def without_cfg(content: dict[str, Any]) -> None:
    del content["cfg"]


def without_keys(content: dict[str, Any]) -> None:
    for key in ("encoder.layers.2.fc2.bias", "encoder.pos_conv.0.weight_g"):
        del content["model"][key]


def another_layout(content: dict[str, Any]) -> None:
    del content["model"]["encoder.layers.0.self_attn.relative_attention_bias.weight"]


def own_table(content: dict[str, Any]) -> None:
    key = "encoder.layers.1.self_attn.relative_attention_bias.weight"
    content["model"][key] = content["model"][key] + 1  # in the file, all layers share one tensor


def wrong_shape(content: dict[str, Any]) -> None:
    content["model"]["encoder.layers.1.fc1.bias"] = torch.ones(95)


def wrong_gain(content: dict[str, Any]) -> None:
    content["model"]["encoder.pos_conv.0.weight_g"] = torch.ones(48, 1, 1)


def wrong_axes(content: dict[str, Any]) -> None:
    content["model"]["patch_embedding.weight"] = torch.ones(40, 256)


def wrong_labels(content: dict[str, Any]) -> None:
    content["label_dict"] = {0: "cat", 1: "dog"}


def layers(content: dict[str, Any]) -> None:
    content["cfg"]["encoder_layers"] = 4


def pre_norm(content: dict[str, Any]) -> None:
    content["cfg"]["layer_norm_first"] = True


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_cfg, "no cfg with max_distance and deep_norm"),
        (without_keys, "lacks 2 keys of its layout: encoder.layers.2.fc2.bias, encoder.pos_conv.0.weight_g"),
        (another_layout, "has no encoder.layers.0.self_attn.relative_attention_bias.weight"),
        (own_table, "layers.1.self_attn.relative_attention_bias.weight differs"),
        (wrong_shape, "beats.layers.1.mlp.fc1.bias (95,), expected (96,)"),
        (wrong_gain, "weight_g has shape (48, 1, 1), expected (1, 1, 128)"),
        (wrong_axes, "patch_embedding.weight has shape (40, 256), expected 4 axes"),
        (wrong_labels, "label_dict does not name the 5 classes"),
        (layers, "cfg has encoder_layers=4, and its tensors 3"),
        (pre_norm, "layer_norm_first=True; only layer_norm_first=False is implemented"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_checkpoint_that_contradicts_itself_is_refused(fixtures, tmp_path, capsys, change, says: str) -> None:
    content = torch.load(fixtures / "beats" / "finetuned.pth", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "m.pt")
    assert main(["convert", "beats", str(tmp_path / "m.pt"), str(tmp_path / "target")]) == 1
    message = capsys.readouterr().err
    assert says in message and "m.pt" in message and not (tmp_path / "target").exists()


def test_keys_of_something_else_are_listed(fixtures: Path, tmp_path: Path, capsys) -> None:
    content = torch.load(fixtures / "beats" / "pretrained.pth", weights_only=True)
    content["model"]["quantize.embedding"] = torch.ones(3)
    torch.save(content, tmp_path / "m.pt")
    assert main(["convert", "beats", str(tmp_path / "m.pt"), str(tmp_path / "target")]) == 0
    assert "ignored 1 keys\n  quantize.embedding: not a key of BEATs" in capsys.readouterr().out


def test_options_of_another_project_are_refused(fixtures: Path, tmp_path: Path, capsys) -> None:
    source = str(fixtures / "beats" / "pretrained.pth")
    assert main(["convert", "beats", source, str(tmp_path / "target"), "--mean", "15"]) == 1
    assert "beats does not take mean; its options are: none" in capsys.readouterr().err


class Malice:
    """Unpickling this writes a file."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch '{self.witness}'",)


@pytest.mark.parametrize("system", ["beats", "openbeats"])
def test_an_unsafe_pickle_is_refused_and_nothing_of_it_runs(fixtures, tmp_path: Path, capsys, system: str) -> None:
    content = torch.load(fixtures / system / "pretrained.pth", weights_only=True)
    content["cfg"]["extra"] = Malice(tmp_path / "witness")
    torch.save(content, tmp_path / "m.pt")
    assert main(["convert", system, str(tmp_path / "m.pt"), str(tmp_path / "target")]) == 1
    assert "was refused and nothing in it was run" in capsys.readouterr().err
    assert not (tmp_path / "witness").exists() and not (tmp_path / "target").exists()
