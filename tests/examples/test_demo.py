"""Tuning and evaluation in a row, as `make demo` runs them, in miniature."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import demo as demo_script
import numpy as np
import pytest
import soundfile
from demo import DemoArguments, choose_rows
from PIL import Image

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel

ROOT = Path(__file__).parents[2]


def demo(output: Path, *arguments: object) -> str:
    command = [sys.executable, "examples/demo/demo.py", "--output_dir", str(output), "--episodes", "20"]
    command += ["--head_steps", "1", "--tune_steps", "2", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Output folder of the demo on rendered events with a small encoder, and what it printed."""
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("demo") / "demo_output"
    AudioMAEModel(AudioMAEConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=3)).save_pretrained(base)
    AudioMAEFeatureExtractor().save_pretrained(base)
    return folder, demo(folder, "--clips_per_class", 16, "--model_name_or_path", base)


@pytest.mark.slow
def test_demo_on_rendered_events_ends_with_a_table_and_a_plot(rendered: tuple[Path, str]) -> None:
    tmp_path, printed = rendered
    assert "Tuned encoder (2 layers, hidden size 48)" in printed
    for part in ("1-shot", "5-shot", "pretrained", "uaMix-tuned", "difference", "±", "embeddings.png"):
        assert part in printed
    assert re.search(r"Time: clips \d+ s, tuning \d+ s, check \d+ s\n$", printed)
    with Image.open(tmp_path / "embeddings.png") as picture:
        assert min(picture.size) >= 600
    models = json.loads((tmp_path / "results.json").read_text())["models"]
    assert [(one["name"], [score["k"] for score in one["scores"]]) for one in models] == [
        ("pretrained", [1, 5]),
        ("uaMix-tuned", [1, 5]),
        ("uamix-whisper-tiny.en", [1, 5]),
    ]
    assert all(0 < score["mean"] <= 1 for one in models for score in one["scores"])
    assert (tmp_path / "uamix-mae" / "model.safetensors").is_file()


@pytest.mark.slow
def test_demo_takes_a_labelled_folder(esc10: Path, tmp_path: Path) -> None:
    rows = ["--train_where", "fold=1", "--test_where", "fold=5"]
    printed = demo(tmp_path, "--data_dir", esc10, "--group_column", "src_file", *rows)
    assert "Tuned encoder (12 layers, hidden size 192)" in printed  # the one that comes with the project
    assert "80 clips of 10 classes" in printed
    assert "fold=1, 80 clips, used without labels" in (tmp_path / "uamix-mae" / "README.md").read_text()


@pytest.mark.parametrize("given", [{}, {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "active"}])
def test_threads_sleep_while_they_wait_unless_told_otherwise(monkeypatch, tmp_path: Path, capfd, given) -> None:
    """As the OpenMP of PyTorch says itself when it is loaded."""
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"OMP_DISPLAY_ENV": "true", **given}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "script.py").write_text("import torch")
    monkeypatch.setattr(demo_script, "EXAMPLES", tmp_path)
    demo_script.run("script.py", launcher=False)
    said = capfd.readouterr().err
    assert f"OMP_NUM_THREADS = '{given.get('OMP_NUM_THREADS', 2)}'" in said
    assert f"OMP_WAIT_POLICY = '{given.get('OMP_WAIT_POLICY', 'passive').upper()}'" in said


def test_folds_split_three_to_two_where_nothing_is_said(esc10: Path, tmp_path: Path) -> None:
    assert choose_rows(DemoArguments(), str(esc10))[:2] == (["fold=1,2,3"], ["fold=4,5"])
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 16_000)
    train, test, remark = choose_rows(DemoArguments(), str(tmp_path))
    assert train == test == [] and "same recordings" in remark
