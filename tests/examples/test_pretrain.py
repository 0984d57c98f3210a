"""examples/pretrain.py from scratch and from a checkpoint, on folders of short sounds."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import soundfile
from toy_sounds import tones
from transformers import AutoFeatureExtractor, AutoModel

from uamix_hf import AudioMAEForPreTraining

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    waves, labels = tones(24)
    made = []
    for part in range(2):
        folder = tmp_path / f"part{part}"
        folder.mkdir()
        lines = ["file_name,label"]
        for number in range(12 * part, 12 * part + 12):
            soundfile.write(folder / f"{number}.wav", waves[number], 16_000)
            lines.append(f"{number}.wav,{'abc'[labels[number]]}")
        (folder / "metadata.csv").write_text("\n".join(lines))
        made.append(folder)
    return made


@pytest.fixture
def pretrain(monkeypatch: pytest.MonkeyPatch):
    def run(*flags: object) -> None:
        fixed = ["--use_cpu", "--report_to", "none", "--per_device_train_batch_size", 4, "--logging_steps", 1]
        monkeypatch.setattr(sys, "argv", ["pretrain.py", *map(str, [*fixed, *flags])])
        runpy.run_path(str(ROOT / "examples" / "pretrain.py"), run_name="__main__")

    return run


def test_a_model_is_pretrained_on_several_folders_and_gone_on_with(
    pretrain, folders: list[Path], tmp_path: Path
) -> None:
    small = ["num_hidden_layers=1", "decoder_num_hidden_layers=1", "hidden_size=48"]
    rows = ["--train_dir", *folders, "--where", "part0:label=a,b"]
    pretrain(*rows, "--output_dir", tmp_path / "one", "--config_overrides", *small, "--max_steps", 12,
             "--save_steps", 12, "--save_strategy", "steps")  # fmt: skip
    state = json.loads((tmp_path / "one" / "checkpoint-12" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) == 12 and sum(losses[-4:]) < sum(losses[:4])
    assert state["epoch"] == pytest.approx(12 / (20 // 4))  # 8 of the first folder's clips and all 12 of the second's
    model = AutoModel.from_pretrained(tmp_path / "one")
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (48, 1)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "one")
    assert extractor.mean != AutoFeatureExtractor.from_pretrained(ROOT / "model_cards/audio-mae-tiny").mean
    pretrain(*rows, "--model_name_or_path", tmp_path / "one", "--output_dir", tmp_path / "two", "--max_steps", 1)
    again = AudioMAEForPreTraining.from_pretrained(tmp_path / "two")
    assert again.config.hidden_size == 48
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "two").mean == extractor.mean
