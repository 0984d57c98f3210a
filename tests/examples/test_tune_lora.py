"""examples/tune.py with --lora_r, from the command line to folders that the other scripts read."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import launch
from toy_sounds import CONFIG, EXTRACTOR, tones, write_tones
from transformers import AutoModel, set_seed

from uamix_hf import AudioMAEModel

ROOT = Path(__file__).parents[2]
HEADS = ["--projector_hidden_size", 24, "--projection_size", 16, "--predictor_hidden_size", 32]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders") / "base"
    set_seed(0)
    AudioMAEModel(CONFIG).save_pretrained(folder)
    EXTRACTOR.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tones(tmp_path_factory.mktemp("recordings") / "sounds", 24)
    lines = [f"{number:02d}.wav,{'abc'[label]}" for number, label in enumerate(tones(24)[1])]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    return folder


def flags(base: Path, sounds: Path, output: Path) -> list[object]:
    return [
        "--model_name_or_path", base, "--train_dir", sounds, "--output_dir", output, "--use_cpu", "--report_to", "none",
        "--per_device_train_batch_size", 8, "--max_steps", 2, "--head_steps", 1, "--recipe", "plastic", *HEADS,
    ]  # fmt: skip


def script(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_the_flags_say_what_has_adapters(base, sounds, tmp_path, monkeypatch) -> None:
    more = ["--lora_r", 3, "--lora_alpha", 6, "--lora_target_modules", "q_proj", "mlp.fc1", "--freeze_blocks", 1]
    script("tune.py", monkeypatch, *flags(base, sounds, tmp_path), *more)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (3, 6, str(base))
    assert sorted(config["target_modules"]) == ["layers.1.attention.q_proj", "layers.1.mlp.fc1"]
    tuned, before = AutoModel.from_pretrained(tmp_path), AutoModel.from_pretrained(base)
    changed = {name for name, value in before.named_parameters() if not (value == tuned.get_parameter(name)).all()}
    assert changed == {"layers.1.attention.q_proj.weight", "layers.1.mlp.fc1.weight"}
    assert "| lora_target_modules | fc1, q_proj |" in (tmp_path / "README.md").read_text()


def test_flags_without_the_rank_are_refused(base, sounds, tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="lora_alpha: without effect here, goes with lora_r"):
        script("tune.py", monkeypatch, *flags(base, sounds, tmp_path), "--lora_alpha", 16)


@pytest.mark.slow
def test_the_other_scripts_read_both_folders(base, sounds, tmp_path, monkeypatch) -> None:
    tuned, files = tmp_path / "tuned", []
    printed = launch("examples/tune.py", *flags(base, sounds, tuned), "--lora_r", 2)
    assert "Saved the tuned encoder" in printed
    for place in (tuned, tuned / "adapter"):
        files.append(tmp_path / f"{place.name}.npz")
        given = ["--model_name_or_path", place, "--data_dir", sounds, "--output_file", files[-1]]
        script("embed.py", monkeypatch, *given)
    one, two = (np.load(file)["vectors"] for file in files)
    assert one.shape == (24, 32)
    np.testing.assert_allclose(one, two, atol=1e-4)
    few = ["--n_way", 3, "--k_shot", 1, "--queries", 3, "--episodes", 10, "--output_dir", tmp_path / "results"]
    models = ["--model_name_or_path", base, tuned, tuned / "adapter", "--model_labels", "base", "merged", "adapter"]
    script("few_shot.py", monkeypatch, *models, "--data_dir", sounds, *few)
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert [model["name"] for model in results["models"]] == ["base", "merged", "adapter"]
