"""Scripts that embed leave unreadable recordings out by name, and the rest stays what it is."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from uamix_hf import AudioEmbedder, AudioInputError, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable:
    def run(script: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = AudioMAEConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, max_length=64)
    AudioMAEModel(config).save_pretrained(tmp_path / "model")
    AudioMAEFeatureExtractor(max_length=64).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Twelve clips of two classes in turns, of which the second and the last of a class cannot be read."""
    lines = ["file_name,label,speaker"]
    (tmp_path / "clips").mkdir()
    for number in range(12):
        path = tmp_path / "clips" / f"{number}.wav"
        soundfile.write(path, np.random.default_rng(number).uniform(-0.5, 0.5, 4000), 16_000)
        lines.append(f"{number}.wav,{'ab'[number % 2]},s{number // 3}")
    (tmp_path / "clips" / "2.wav").write_bytes(b"no sound")
    (tmp_path / "clips" / "11.wav").write_bytes(b"")
    (tmp_path / "clips" / "metadata.csv").write_text("\n".join(lines))
    return tmp_path / "clips"


READABLE = [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]


def test_embeddings_are_those_of_the_files_they_are_named_after(run, model, clips, tmp_path: Path, capsys) -> None:
    arguments = ["--model_name_or_path", model, "--data_dir", clips, "--output_file", tmp_path / "v.npz"]
    with pytest.raises(AudioInputError, match=r"2\.wav"):
        run("embed.py", *arguments)
    with pytest.raises(ValueError, match=r"v does not end in \.npz"):  # NumPy would write to v.npz
        run("embed.py", *arguments[:-1], tmp_path / "v")
    run("embed.py", *arguments, "--on_error", "skip")
    saved = np.load(tmp_path / "v.npz")
    assert saved["file_name"].tolist() == [f"{number}.wav" for number in READABLE]
    embedder = AudioEmbedder.from_pretrained(str(model))
    for name, vector in zip(saved["file_name"], saved["vectors"], strict=True):
        np.testing.assert_allclose(vector, embedder.encode(str(clips / name)), atol=1e-5)
    printed = capsys.readouterr().out
    assert "2 recordings were left out:" in printed and "2.wav" in printed and "11.wav" in printed


def test_labels_and_groups_stay_with_their_clips(run, model, clips, tmp_path: Path, capsys) -> None:
    common = ["--model_name_or_path", model, "--group_column", "speaker", "--protocol", "knn", "--neighbours", 1]
    with pytest.raises(AudioInputError, match=r"2\.wav"):
        run("few_shot.py", *common, "--data_dir", clips, "--output_dir", tmp_path / "none")
    skipping = [*common, "--data_dir", clips, "--output_dir", tmp_path / "skipped", "--on_error", "skip"]
    run("few_shot.py", *skipping)
    results = json.loads((tmp_path / "skipped" / "results.json").read_text())
    assert results["data"]["clips"] == 10 and sorted(results["data"]["skipped"]) == [
        str(clips / "11.wav"),
        str(clips / "2.wav"),
    ]
    assert "2 recordings were left out:" in capsys.readouterr().out

    rows = (clips / "metadata.csv").read_text().split("\n")
    (clips / "metadata.csv").write_text("\n".join([rows[0], *(rows[number + 1] for number in READABLE)]))
    run("few_shot.py", *common, "--data_dir", clips, "--output_dir", tmp_path / "without")
    peer = json.loads((tmp_path / "without" / "results.json").read_text())
    assert results["models"][0]["scores"] == peer["models"][0]["scores"]
    assert results["models"][0]["confusion"] == peer["models"][0]["confusion"]
    run("few_shot.py", *skipping)  # from the cache
    assert json.loads((tmp_path / "skipped" / "results.json").read_text())["models"] == results["models"]
