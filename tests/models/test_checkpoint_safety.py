"""Conversion runs nothing that is in a file, says what is wrong with it, and reads the timm layout from the Hub."""

import argparse
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import HubServer
from safetensors.torch import load_file, save
from safetensors.torch import save_file as save_safetensors

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.__main__ import main
from uamix_hf.models.checkpoint import CheckpointError, UnsafeCheckpointError, read_checkpoint
from uamix_hf.models.conversion import convert

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # of torch, about files bad on purpose

HEADS = ["--num_attention_heads", "3"]


class Malice:
    """Unpickling this runs a shell command, or a function of Python that writes a file."""

    def __init__(self, witness: Path, function=os.system):
        self.witness, self.function = witness, function

    def __reduce__(self):
        if self.function is os.system:
            return os.system, (f"touch '{self.witness}'",)
        return exec, (f"open({str(self.witness)!r}, 'w').close()",)


def timm_layout(model: AudioMAEModel) -> dict[str, torch.Tensor]:
    """Tensors of an encoder under timm's names, queries, keys and values in one."""
    state = model.state_dict()
    tensors = {}
    for key, value in state.items():
        if match := re.fullmatch(r"(layers\.\d+\.attention\.)([qkv])_proj\.(weight|bias)", key):
            if match[2] == "q":
                value = torch.cat([state[f"{match[1]}{part}_proj.{match[3]}"] for part in "qkv"])
                tensors[f"{match[1]}qkv.{match[3]}"] = value
        else:
            tensors[key] = value
    for ours, theirs in (
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^layers\.", "blocks."),
        (r"\.attention\.o_proj\.", ".attn.proj."),
        (r"\.attention\.qkv\.", ".attn.qkv."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"^layernorm\.", "norm."),
    ):
        tensors = {re.sub(ours, theirs, key): value for key, value in tensors.items()}
    return {key: value.clone() for key, value in tensors.items()}


def encoder(config: AudioMAEConfig, pooling: str = "mean") -> AudioMAEModel:
    torch.manual_seed(0)
    model = AudioMAEModel(AudioMAEConfig(**{**config.to_dict(), "pooling": pooling}))
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def tensors(tiny_config: AudioMAEConfig) -> dict[str, torch.Tensor]:
    return timm_layout(encoder(tiny_config))


def run(source: Path, target: Path) -> int:
    return main(["convert", "audiomae", str(source), str(target), *HEADS])


@pytest.mark.parametrize("function", [os.system, exec])
@pytest.mark.parametrize("place", ["alone", "beside the model", "in the arguments", "deep", "old format", "pickle"])
def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(tmp_path: Path, capsys, tensors, place, function) -> None:
    source, target, witness = tmp_path / "m.pth", tmp_path / "target", tmp_path / "witness"
    malice = Malice(witness, function)
    content = {
        "alone": malice,
        "beside the model": {"model": tensors, "optimizer": malice},
        "in the arguments": {"model": tensors, "args": argparse.Namespace(norm_pix_loss=malice)},
        "deep": {"model": tensors | {"extra": [{"a": (1, [malice])}]}},
        "old format": {"model": tensors, "epoch": malice},
        "pickle": {"model": malice},
    }[place]
    if place == "pickle":
        source.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, source, _use_new_zipfile_serialization=place != "old format")
    with pytest.raises(UnsafeCheckpointError, match=r"m\.pth was refused and nothing in it was run"):
        read_checkpoint(source)
    assert run(source, target) == 1
    assert "was refused" in capsys.readouterr().err
    assert not witness.exists() and not target.exists()
    torch.load(source, weights_only=False) if place != "pickle" else pickle.loads(source.read_bytes())
    assert witness.exists()  # the file is as bad as it should be


def test_training_arguments_are_accepted(tmp_path: Path, tensors) -> None:
    arguments = argparse.Namespace(norm_pix_loss=True, mask_ratio=0.7, blr=2e-4, output_dir="x", nested=[1, None])
    torch.save({"model": tensors, "epoch": 3, "args": arguments}, tmp_path / "m.pth")
    read, entries = read_checkpoint(tmp_path / "m.pth")
    assert entries == {"epoch": 3, "args": arguments}
    assert all(torch.equal(read[key], value) for key, value in tensors.items()) and len(read) == len(tensors)
    assert run(tmp_path / "m.pth", tmp_path / "target") == 0
    with pytest.raises(UnsafeCheckpointError):  # what was allowed once is not allowed for good
        torch.save({"model": tensors, "args": np.random.default_rng(0)}, tmp_path / "m.pth")
        read_checkpoint(tmp_path / "m.pth")


def test_missing_keys_are_named_and_nothing_is_written(tmp_path: Path, capsys, tensors) -> None:
    del tensors["blocks.1.mlp.fc2.bias"], tensors["norm.weight"]
    save_safetensors(tensors, tmp_path / "m.safetensors")
    assert run(tmp_path / "m.safetensors", tmp_path / "target") == 1
    message = capsys.readouterr().err
    assert "lacks 2 keys" in message and "blocks.1.mlp.fc2.bias" in message and "norm.weight" in message
    assert not (tmp_path / "target").exists()
    del tensors["cls_token"]
    save_safetensors(tensors, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="no cls_token"):
        convert("audiomae", str(tmp_path / "m.safetensors"), str(tmp_path / "target"), num_attention_heads=3)


def test_unknown_keys_are_listed_as_ignored(tmp_path: Path, capsys, tensors) -> None:
    save_safetensors(
        tensors | {"blocks.0.gamma": torch.ones(3), "mask_token": torch.ones(3)}, tmp_path / "m.safetensors"
    )
    report = convert("audiomae", str(tmp_path / "m.safetensors"), str(tmp_path / "target"), num_attention_heads=3)
    assert set(report.ignored) == {"blocks.0.gamma", "mask_token"}
    assert set(report.used) == set(tensors) and report.missing == []
    assert run(tmp_path / "m.safetensors", tmp_path / "target") == 0
    output = capsys.readouterr().out
    assert "ignored 2 keys\n  blocks.0.gamma: not a key of Audio-MAE" in output
    assert f"used {len(tensors)} keys" in output and "missing 0 keys" in output


@pytest.mark.parametrize(
    ("key", "shape", "says"),
    [
        ("blocks.2.norm1.weight", (47,), "layers.2.layernorm_before.weight (47,), expected (48,)"),
        ("patch_embed.proj.weight", (48, 3, 16, 16), "(48, 3, 16, 16), expected (48, 1, 16, 16)"),  # of pictures
        ("patch_embed.proj.weight", (48, 1, 14, 14), "Patches of 14 do not divide 128 mel bins"),
        ("pos_embed", (1, 1 + 99, 48), "(1, 100, 48), expected (1, 97, 48)"),
        ("cls_token", (1, 1, 30), "hidden_size=30 is not a multiple of 4"),
    ],
)
def test_contradictory_shapes_are_named(tmp_path: Path, capsys, tensors, key: str, shape: tuple, says: str) -> None:
    save_safetensors(tensors | {key: torch.ones(shape)}, tmp_path / "m.safetensors")
    assert run(tmp_path / "m.safetensors", tmp_path / "target") == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "target").exists()


def test_a_download_that_fails_is_our_error(tmp_path: Path, capsys, monkeypatch) -> None:
    def fail(*arguments) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda self, name: ["model.safetensors"])
    monkeypatch.setattr("uamix_hf.models.checkpoint.hf_hub_download", fail)
    assert main(["convert", "audiomae", "user/model", str(tmp_path / "target")]) == 1
    assert "user/model" in (message := capsys.readouterr().err) and "no space left" in message


DAMAGED = {
    "cut.pth": lambda good: good[: len(good) // 2],
    "cut to its head.pth": lambda good: good[:100],
    "empty.pth": lambda good: b"",
    "page.pth": lambda good: b"<!DOCTYPE html><html>Google Drive - Virus scan warning</html>",
    "pointer.bin": lambda good: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "cut.safetensors": lambda good: good[:-100],
    "empty.safetensors": lambda good: b"",
    "pointer.safetensors": lambda good: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_errors_that_name_them(tmp_path: Path, capsys, tensors, name: str) -> None:
    path = tmp_path / name
    torch.save(tensors, path)
    good = save(tensors) if name.endswith(".safetensors") else path.read_bytes()
    path.write_bytes(DAMAGED[name](good))
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(path)
    assert run(path, tmp_path / "target") == 1
    assert name in capsys.readouterr().err and not (tmp_path / "target").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_any_damage_to_a_pickle_is_our_error(tmp_path: Path, zipped: bool) -> None:
    torch.save({"model": {"a": torch.ones(30)}}, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    good, rng = (tmp_path / "m.pth").read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(good[: rng.integers(len(good))] if rng.random() < 0.3 else good)
        for place in rng.integers(0, max(1, min(len(damaged), 500)), 3):
            damaged[place : place + 1] = bytes([rng.integers(256)])
        (tmp_path / "m.pth").write_bytes(damaged)
        try:
            read_checkpoint(tmp_path / "m.pth")
        except CheckpointError:
            refused += 1
    assert refused > 50


def test_files_without_tensors_and_sources_that_are_none(tmp_path: Path, tensors) -> None:
    for content in ([tensors], {"model": {"a": 1}}, {}, 3):
        torch.save(content, tmp_path / "m.pth")
        with pytest.raises(CheckpointError, match=r"m\.pth holds"):
            read_checkpoint(tmp_path / "m.pth")
    for source in ("no/such/file.pth", "no such thing", "nobody/nothing"):
        with pytest.raises(CheckpointError, match="neither a file nor a folder"):
            convert("audiomae", source, str(tmp_path / "target"))


def test_a_folder_with_several_checkpoints_asks_which(tmp_path: Path, capsys, tensors) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert run(folder, tmp_path / "target") == 1
    assert "holds 0 checkpoints" in capsys.readouterr().err
    torch.save({"model": tensors}, folder / "b.pth")
    (folder / "README.md").touch()
    assert run(folder, tmp_path / "target") == 0
    torch.save({"model": tensors}, folder / "a.pth")
    capsys.readouterr()
    assert run(folder, tmp_path / "other") == 1
    assert "holds 2 checkpoints (a.pth, b.pth): name the file" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert run(folder / "a.pth", tmp_path / "other") == 0


CONVERT = """
import sys
from uamix_hf.__main__ import main

for name in ("norm", "fc_norm"):
    assert main(["convert", "audiomae", f"user/{name}", f"{sys.argv[1]}/{name}", "--num_attention_heads", "3"]) == 0
assert main(["convert", "audiomae", "user/none", f"{sys.argv[1]}/none"]) == 1
assert main(["convert", "audiomae", "user/two", f"{sys.argv[1]}/two"]) == 1
"""


@pytest.mark.slow
def test_the_timm_layout_on_the_hub_converts_to_an_equal_encoder(tiny_config: AudioMAEConfig, tmp_path: Path) -> None:
    models = {"norm": encoder(tiny_config, "mean"), "fc_norm": encoder(tiny_config, "mean_fc_norm")}
    with HubServer() as hub:
        for name, model in models.items():
            layout = timm_layout(model)
            assert f"{name}.weight" in layout and "blocks.2.attn.qkv.bias" in layout
            files = {"model.safetensors": save(layout), "pytorch_model.bin": b"not asked for", "config.json": b"{}"}
            hub.add(f"user/{name}", files)
        hub.add("user/two", {"a.pth": b"", "b.pth": b""})
        environment = os.environ | hub.environment(tmp_path / "home")
        command = [sys.executable, "-c", CONVERT, str(tmp_path)]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert process.returncode == 0, process.stderr
        assert "user/none is neither a file nor a folder, and the Hub answers" in process.stderr
        assert "user/two holds 2 checkpoints" in process.stderr
        assert hub.unhandled == []
        assert not any("pytorch_model.bin" in line for line in hub.requests)

    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 20_000).astype(np.float32)
    for name, model in models.items():
        assert "model.safetensors" in os.listdir(tmp_path / name) and "README.md" in os.listdir(tmp_path / name)
        converted = AudioMAEModel.from_pretrained(tmp_path / name).eval()
        assert converted.config.pooling == model.config.pooling
        assert set(load_file(tmp_path / name / "model.safetensors")) == set(model.state_dict())
        extractor = AudioMAEFeatureExtractor.from_pretrained(tmp_path / name)
        inputs = extractor(wave, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            expected, actual = model(**inputs), converted(**inputs)
        assert torch.equal(actual.pooler_output, expected.pooler_output)
        assert torch.equal(actual.last_hidden_state, expected.last_hidden_state)


def test_an_option_that_the_project_does_not_take_is_refused(tmp_path: Path, tensors) -> None:
    save_safetensors(tensors, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"audiomae does not take max_distance; its options are: num_attention"):
        convert("audiomae", str(tmp_path / "m.safetensors"), str(tmp_path / "target"), max_distance=800)
    assert not (tmp_path / "target").exists()
