"""The three training scripts, run again into a folder of theirs: with other settings, other data, or moved."""

import hashlib
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_sounds import CONFIG, EXTRACTOR, tones, write_tones

from uamix_hf import AnotherRunError, AudioMAEConfig, AudioMAEForPreTraining, RunCheckpointError

ROOT = Path(__file__).parents[2]
SCRIPTS = ("tune", "finetune", "pretrain")
SMALL = ["--projector_hidden_size", 24, "--projection_size", 16, "--predictor_hidden_size", 32, "--head_steps", 1]
LAST = ["--eval_strategy", "no", "--load_best_model_at_end", "false"]
OF = {"tune": SMALL, "finetune": ["--label_column", "label", *LAST], "pretrain": ["--reconstructions", 0]}
RESUME = ["--resume_from_checkpoint", "true"]
LABELS = ["abc"[label] for label in tones(12)[1]]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pretrained models of one kind."""
    folders = [tmp_path_factory.mktemp("bases") / name for name in ("one", "two")]
    sizes = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
             "decoder_intermediate_size": 16}  # fmt: skip
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        AudioMAEForPreTraining(AudioMAEConfig(**{**CONFIG.to_dict(), **sizes})).save_pretrained(folder)
        EXTRACTOR.save_pretrained(folder)
    return folders


def write_metadata(folder: Path, order: list[int]) -> None:
    lines = ["file_name,label", *(f"{row:02d}.wav,{LABELS[row]}" for row in order)]
    (folder / "metadata.csv").write_text("\n".join(lines))


@pytest.fixture
def run(bases: list[Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`run(script, folder, *flags)`: three steps on `folder/sounds`, into `folder/out`; made, unless they are there."""

    def run(script: str, folder: Path, *flags: object) -> Path:
        if not (folder / "sounds").exists():
            write_metadata(write_tones(folder / "sounds", 12), list(range(12)))
        fixed = [
            "--model_name_or_path", bases[0], "--train_dir", folder / "sounds", "--output_dir", folder / "out",
            "--max_steps", 3, "--save_steps", 3, "--save_strategy", "steps", "--per_device_train_batch_size", 4,
            "--use_cpu", "--report_to", "none", "--disable_tqdm", "true", *OF[script],
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, [*fixed, *flags])])
        runpy.run_path(str(ROOT / "examples" / f"{script}.py"), run_name="__main__")
        return folder / "out"

    return run


def files(folder: Path) -> dict[str, str]:
    """What is in a folder, by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "script, flags, messages",
    [
        ("tune", ["--mix", "none", "--learning_rate", "1e-5", "--seed", 7],
         ["mix: checkpoint 't-cutmix', now 'none'", "learning_rate: checkpoint 8.16e-06, now 1e-05",
          "seed: checkpoint 42, now 7"]),
        ("tune", ["--random_weights", "true", "--recipe", "plastic"], ["base_model.weights: checkpoint '"]),
        ("finetune", ["--linear_probe", "true"], ["linear_probe: checkpoint False, now True"]),
        ("finetune", ["--where", "label=a,b"], ["data.clips: checkpoint 12, now 8", "class_names: checkpoint ["]),
        ("finetune", ["--k_shot", 3], ["data.clips: checkpoint 12, now 9"]),
        ("finetune", ["--pooling", "cls"], ["model.pooling: checkpoint 'mean', now 'cls'"]),
        ("finetune", ["--problem_type", "multi_label_classification", "--label_separator", ";"], ["problem_type: "]),
        ("pretrain", ["--mask_type", "time_frequency", "--base_learning_rate", 1],
         ["mask_type: checkpoint 'unstructured', now 'time_frequency'", "learning_rate: checkpoint 3.125e-06, now 0"]),
    ],
)  # fmt: skip
def test_settings_of_another_run_are_refused_and_nothing_is_touched(run, tmp_path, script, flags, messages) -> None:
    before = files(run(script, tmp_path))
    with pytest.raises(AnotherRunError) as caught:
        run(script, tmp_path, *flags, *RESUME)
    assert all(message in str(caught.value) for message in messages), caught.value
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("script", SCRIPTS)
def test_another_base_model_is_refused(run, bases, tmp_path, script) -> None:
    run(script, tmp_path)
    with pytest.raises(AnotherRunError, match="base_model.weights: checkpoint '"):
        run(script, tmp_path, "--model_name_or_path", bases[1], *RESUME)


@pytest.mark.parametrize("script", SCRIPTS)
def test_reordered_rows_a_new_clip_and_a_replaced_one_are_refused(run, tmp_path, script) -> None:
    run(script, tmp_path)
    sounds = tmp_path / "sounds"
    write_metadata(sounds, [*range(11, -1, -1)])
    with pytest.raises(AnotherRunError, match="data: the same clips in another order, from row 0 on"):
        run(script, tmp_path, *RESUME)
    shutil.copy(sounds / "03.wav", sounds / "new.wav")
    write_metadata(sounds, [*range(12)])
    with (sounds / "metadata.csv").open("a") as file:
        file.write("\nnew.wav,a")
    with pytest.raises(AnotherRunError, match="data.clips: checkpoint 12, now 13"):
        run(script, tmp_path, *RESUME)
    write_metadata(sounds, [*range(12)])
    shutil.copy(sounds / "04.wav", sounds / "07.wav")
    with pytest.raises(AnotherRunError, match="data: 1 of 12 clips differ, the first in row 7"):
        run(script, tmp_path, *RESUME)


def test_a_class_folder_that_is_renamed_is_refused(run, tmp_path) -> None:
    """Every class would have another's name: numbers follow the names' order."""
    sounds = write_tones(tmp_path / "sounds", 12)
    for row, label in enumerate(LABELS):
        (sounds / label).mkdir(exist_ok=True)
        shutil.move(sounds / f"{row:02d}.wav", sounds / label)
    run("finetune", tmp_path)
    (sounds / "a").rename(sounds / "z")
    with pytest.raises(AnotherRunError) as caught:
        run("finetune", tmp_path, *RESUME)
    assert "class_names: checkpoint ['a', 'b', 'c'], now ['b', 'c', 'z']" in str(caught.value)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_and_its_data_may_move(run, tmp_path, script) -> None:
    (tmp_path / "here").mkdir()
    first = load_file(run(script, tmp_path / "here") / "model.safetensors")
    shutil.move(tmp_path / "here", tmp_path / "there")
    again = load_file(run(script, tmp_path / "there", *RESUME) / "model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in first.items())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_used_folder_is_refused_and_left_as_it_is_unless_overwriting_is_asked_for(run, tmp_path, script) -> None:
    before = files(run(script, tmp_path))
    flags = ["--max_steps", 2, "--save_steps", 2, "--learning_rate", 1e-5]
    with pytest.raises(RunCheckpointError, match="--overwrite_output_dir true"):
        run(script, tmp_path, *flags)
    assert files(tmp_path / "out") == before
    run(script, tmp_path, *flags, "--overwrite_output_dir", "true")
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-2"]


# --- streams


def test_a_stream_of_other_files_or_in_another_order_is_refused(run, tmp_path) -> None:
    stream = ["--streaming", "--shuffle_buffer", 3]
    run("pretrain", tmp_path, *stream)
    for flags, message in (
        (["--shuffle_buffer", 4], "data.shuffle_buffer: checkpoint 3, now 4"),
        (["--where", "label=a,b"], "data.clips: checkpoint 12, now 8"),
        (["--data_seed", 5], "data.data_seed: checkpoint 42, now 5"),
    ):
        with pytest.raises(AnotherRunError, match=message):
            run("pretrain", tmp_path, *stream, *flags, *RESUME)
    longer = [*stream, "--max_steps", 4, "--save_total_limit", 5]
    run("pretrain", tmp_path, *longer, "--data_seed", 5, "--ignore_data_skip", "true", *RESUME)
    state = json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["global_step"] == 4
    shutil.copy(tmp_path / "sounds" / "03.wav", tmp_path / "sounds" / "08.wav")
    with pytest.raises(AnotherRunError, match="data.files: checkpoint"):
        run("pretrain", tmp_path, *longer, "--data_seed", 5, *RESUME)
