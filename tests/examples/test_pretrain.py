"""examples/pretrain.py from scratch and from a checkpoint, cached and streamed, on folders of short sounds."""

import json
import runpy
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import soundfile
import torch
from processes import run_example
from safetensors.torch import load_file
from toy_sounds import tones, write_tones
from transformers import AutoFeatureExtractor, AutoModel

from uamix_hf import AudioMAEForPreTraining, DataError
from uamix_hf.data import cached_features, load_recordings
from uamix_hf.pretraining import IncompatibleCheckpointError, PretrainingArguments, PretrainingTrainer

ROOT = Path(__file__).parents[2]
SMALL = [
    "--config_overrides", "num_hidden_layers=1", "hidden_size=48", "num_mel_bins=32", "max_length=64",
    "decoder_num_hidden_layers=1", "decoder_hidden_size=32", "decoder_num_attention_heads=2",
]  # fmt: skip


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


def history(checkpoint: Path) -> list[dict]:
    return json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]


def test_a_model_is_pretrained_on_several_folders_and_gone_on_with(
    pretrain, folders: list[Path], tmp_path: Path
) -> None:
    rows = ["--train_dir", *folders, "--where", "part0:label=a,b"]
    pretrain(*rows, "--output_dir", tmp_path / "one", *SMALL, "--max_steps", 12, "--learning_rate", 1e-3)
    checkpoint = tmp_path / "one" / "checkpoint-12"
    losses = [entry["loss"] for entry in history(checkpoint) if "loss" in entry]
    assert len(losses) == 12 and sum(losses[-4:]) < sum(losses[:4])
    # 8 of the first folder's clips and all 12 of the second's
    assert json.loads((checkpoint / "trainer_state.json").read_text())["epoch"] == pytest.approx(12 / (20 // 4))
    assert (tmp_path / "one" / "reconstructions" / "step-12.png").is_file()
    model = AutoModel.from_pretrained(tmp_path / "one")
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (48, 1)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "one")
    assert extractor.mean != AutoFeatureExtractor.from_pretrained(ROOT / "model_cards/audio-mae-tiny").mean
    going_on = [*rows, "--model_name_or_path", tmp_path / "one", "--output_dir", tmp_path / "two", "--max_steps", 1]
    pretrain(*going_on, "--mask_type", "time_frequency", "--norm_pix_loss", "false", "--reconstructions", 0)
    again = AudioMAEForPreTraining.from_pretrained(tmp_path / "two")
    assert (again.config.hidden_size, again.config.mask_type, again.config.norm_pix_loss) == (
        48, "time_frequency", False
    )  # fmt: skip
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "two").mean == extractor.mean
    assert not (tmp_path / "two" / "reconstructions").exists()
    with pytest.raises(IncompatibleCheckpointError, match="hidden_size=96"):
        pretrain(*going_on, "--config_overrides", "hidden_size=96")


def test_all_that_the_run_was_told_is_saved_and_the_rate_is_printed(
    pretrain, folders: list[Path], tmp_path: Path, capsys
) -> None:
    flags = ["--train_dir", *folders, "--output_dir", tmp_path / "out", *SMALL, "--max_steps", 2]
    pretrain(*flags, "--gradient_accumulation_steps", 2, "--eval_fraction", 0.25, "--contrastive_weight", 0.1)
    saved = json.loads((tmp_path / "out" / "arguments.json").read_text())
    assert saved["learning_rate"] == pytest.approx(2e-4 * 8 / 256) and saved["base_learning_rate"] == 2e-4
    assert (saved["eval_fraction"], saved["contrastive_weight"], saved["shuffle_buffer"]) == (0.25, 0.1, 1000)
    assert "Learning rate 6.25e-06 for 8 clips a step" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "eval_results.json").read_text())["eval_loss"] > 0


def test_nothing_is_written_where_the_data_are_wrong(pretrain, folders: list[Path], tmp_path: Path) -> None:
    flags = ["--train_dir", *folders, "--output_dir", tmp_path / "out", *SMALL, "--max_steps", 2]
    for more, message in (
        (["--eval_where", "label=z"], "No row has label=z"),
        (["--where", "speaker=x"], "no column 'speaker'"),
        (["--train_dir", tmp_path / "absent"], "is not a folder"),
        (["--per_device_train_batch_size", 32], "24 clips to train on"),
    ):
        with pytest.raises(DataError, match=message):
            pretrain(*flags, *more)
    assert not list(tmp_path.glob("out/*"))


def test_a_stream_tells_what_it_left_out(pretrain, tmp_path: Path, capsys) -> None:
    folder = write_tones(tmp_path / "sound", 12)
    (folder / "broken.wav").write_bytes(b"no sound")
    flags = ["--train_dir", folder, "--streaming", "--output_dir", tmp_path / "out", *SMALL, "--max_steps", 8]
    pretrain(*flags, "--on_error", "skip", "--shuffle_buffer", 2)
    assert "1 recordings were left out." in capsys.readouterr().out


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Weights and all that the optimiser knows of them."""
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    moments = {f"{key}.{name}": value for key, entry in optimizer.items() for name, value in entry.items()}
    return load_file(checkpoint / "model.safetensors") | moments


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def resumed_and_whole(folder: Path, script: str | Path, flags: list, steps: int, saved: int, world: int = 1):
    """Two runs: one without a stop, and one that goes on from its checkpoint of step `saved`."""
    paths = folder / "whole", folder / "resumed"
    common = [*flags, "--use_cpu", "--report_to", "none", "--max_steps", steps, "--save_steps", saved]
    common += ["--learning_rate", 1e-3, "--mask_type", "time_frequency", "--save_total_limit", 5]
    run_example(script, *common, "--output_dir", paths[0], world=world).well()
    shutil.copytree(paths[0] / f"checkpoint-{saved}", paths[1] / f"checkpoint-{saved}")
    run_example(script, *common, "--output_dir", paths[1], "--resume_from_checkpoint", "true", world=world).well()
    assert_equal(*(state(path / f"checkpoint-{steps}") for path in paths))
    assert_equal(*(load_file(path / "model.safetensors") for path in paths))
    logs = [[entry.get("loss") for entry in history(path / f"checkpoint-{steps}")] for path in paths]
    assert logs[0] == logs[1] and len(logs[0]) > saved
    return paths


def test_resuming_equals_never_having_stopped(folders: list[Path], tmp_path: Path) -> None:
    """From the middle of an epoch of 6 batches, with 2-D masks."""
    flags = ["--train_dir", *folders, "--per_device_train_batch_size", 4, "--logging_steps", 1, *SMALL]
    resumed_and_whole(tmp_path, "pretrain.py", flags, steps=16, saved=8)


def test_two_processes_stay_in_step_on_a_stream_that_they_share_and_resume(tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sound", 30)
    (folder / "metadata.csv").write_text(
        "file_name,held\n" + "\n".join(f"{number:02d}.wav,{int(number >= 24)}" for number in range(30))
    )
    flags = ["--train_dir", folder, "--streaming", "--eval_where", "held=1", "--shuffle_buffer", 6, *SMALL]
    flags += ["--per_device_train_batch_size", 3, "--logging_steps", 1, "--per_device_eval_batch_size", 2]
    # Four steps are a pass over the 24 clips: the checkpoint is in the middle of the second one.
    script = ROOT / "tests/examples/two_process_pretrain.py"
    paths = resumed_and_whole(tmp_path, script, flags, steps=12, saved=6, world=2)
    traces = [[torch.load(path / f"trace-{rank}.pt", weights_only=True) for rank in (0, 1)] for path in paths]
    for first, second in traces:
        assert first["world_size"] == second["world_size"] == 2
        assert_equal(first["weights"], second["weights"])
    whole, resumed = traces
    for rank in (0, 1):
        assert resumed[rank]["seen"] == whole[rank]["seen"][6:]
    shares = [Counter(sum(trace["seen"][:4], [])) for trace in whole]
    assert not shares[0].keys() & shares[1].keys() and set((shares[0] + shares[1]).values()) == {1}
    assert len(shares[0] + shares[1]) == 24
    found = json.loads((paths[0] / "eval_results.json").read_text())
    assert found["eval_loss"] == pytest.approx(evaluated_alone(paths[0], folder), abs=1e-5)


def evaluated_alone(run: Path, folder: Path) -> float:
    """The held-out loss of a finished run, by one process in one batch."""
    model = AudioMAEForPreTraining.from_pretrained(run)
    extractor = AutoFeatureExtractor.from_pretrained(run)
    rows = cached_features(load_recordings(str(folder), where=["held=1"]), extractor).dataset
    args = PretrainingArguments(str(run / "alone"), use_cpu=True, per_device_eval_batch_size=6, max_steps=1,
                                per_device_train_batch_size=1)  # fmt: skip
    return PretrainingTrainer(model, args, rows, extractor, rows).evaluate()["eval_loss"]
