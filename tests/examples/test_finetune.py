"""examples/finetune.py: three kinds of problems learnt, whole runs in processes of their own, and what is refused."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hub_server import HubServer
from processes import launch, run_example
from safetensors.torch import load_file
from toy_sounds import CONFIG, EXTRACTOR, PLAIN, tones
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline, set_seed

from uamix_hf import AudioMAEConfig, AudioMAEForPreTraining
from uamix_hf.data import DataError

ROOT = Path(__file__).parents[2]
WAVES, LABELS = tones(36, detuned=0.02, noise=(0.2, 0.2), level=(0.1, 0.1))
NAMES = ("low", "mid", "high")
# What needs longer runs than these is off.
AT_THE_END = ["--save_strategy", "no", "--eval_strategy", "no"]
FAST = [text for name, value in PLAIN.items() for text in (f"--{name}", value)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model's folder."""
    folder = tmp_path_factory.mktemp("base")
    set_seed(0)
    sizes = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
             "decoder_intermediate_size": 16}  # fmt: skip
    AudioMAEForPreTraining(AudioMAEConfig(**{**CONFIG.to_dict(), **sizes})).save_pretrained(folder)
    EXTRACTOR.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\nA base model.\n")
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips with a label, several labels, a number, a fold, and columns that cannot be learnt."""
    folder = tmp_path_factory.mktemp("sounds")
    lines = ["file_name,label,tags,height,fold,hole,odd,rare,same"]
    for number, (wave, label) in enumerate(zip(WAVES, LABELS.tolist(), strict=True)):
        soundfile.write(folder / f"{number}.wav", wave, 16_000)
        tags = ";".join(["tone"] * (label < 2) + ["bright"] * (label > 0))
        height, fold, rare = (300, 900, 2500)[label], number % 4, "owl" if number % 4 == 3 else NAMES[label]
        hole, odd = "" if number == 5 else NAMES[label], "tall" if number == 7 else number
        lines.append(f"{number}.wav,{NAMES[label]},{tags},{height},{fold},{hole},{odd},{rare},low")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def arguments(base: Path, sounds: Path, output: Path, *flags: object) -> list[str]:
    fixed = [
        "--model_name_or_path", base, "--train_dir", sounds, "--output_dir", output, "--label_column", "label",
        "--eval_where", "fold=3", "--use_cpu", "--report_to", "none", "--per_device_train_batch_size", 9,
        "--disable_tqdm", "true",
    ]  # fmt: skip
    return [str(part) for part in [*fixed, *flags]]


@pytest.fixture
def finetune(base: Path, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`finetune(*flags, output=...)`: its folder and results.json."""

    def finetune(*flags: object, output: Path = tmp_path / "out") -> tuple[Path, dict]:
        monkeypatch.setattr(sys, "argv", ["finetune.py", *arguments(base, sounds, output, *flags)])
        runpy.run_path(str(ROOT / "examples" / "finetune.py"), run_name="__main__")
        return output, json.loads((output / "results.json").read_text())

    return finetune


# --- what is learnt, and what comes out


def test_classes_are_learnt_and_the_folder_loads_in_a_pipeline(finetune) -> None:
    output, results = finetune("--max_steps", 45, "--learning_rate", 2e-3, "--eval_strategy", "steps",
                               "--eval_steps", 15, "--save_strategy", "steps", "--save_steps", 15, *FAST,
                               "--where", "fold=0,1,3", "--test_where", "fold=1")  # fmt: skip
    assert results["clips"] == {"train": 9, "test": 9, "eval": 9}
    assert results["label_names"] == ["high", "low", "mid"]
    assert results["results"]["eval_accuracy"] > 0.7
    model = AutoModelForAudioClassification.from_pretrained(output)
    assert model.config.label2id == {"high": 0, "low": 1, "mid": 2}
    classify = pipeline("audio-classification", model=str(output))
    test = np.arange(36) % 4 == 1
    said = [classify(WAVES[row], top_k=1)[0]["label"] for row in np.flatnonzero(test)]
    hits = np.array([NAMES[label] for label in LABELS[test]]) == said
    assert results["results"]["test_accuracy"] == pytest.approx(hits.mean())
    for name in NAMES:
        of_class = np.array([NAMES[label] == name for label in LABELS[test]])
        assert results["results"][f"test_accuracy_{name}"] == pytest.approx(hits[of_class].mean())
    assert (output / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    assert {"torch", "transformers", "uamix_hf"} <= set(results["versions"])
    assert results["settings"]["learning_rate"] == 2e-3 and results["settings"]["seed"] == 42
    card = (output / "README.md").read_text()
    for part in ("license: cc-by-sa-4.0", "pipeline_tag: audio-classification", "| learning_rate | 0.002 |"):
        assert part in card, part


def test_several_classes_a_clip_are_learnt(finetune) -> None:
    output, results = finetune("--label_column", "tags", "--label_separator", ";", "--max_steps", 60,
                               "--learning_rate", 2e-3, *AT_THE_END, *FAST)  # fmt: skip
    assert results["problem_type"] == "multi_label_classification" and results["label_names"] == ["bright", "tone"]
    assert results["results"]["eval_mean_average_precision"] > 0.9
    said = pipeline("audio-classification", model=str(output))(WAVES[LABELS.tolist().index(1)], top_k=2)
    assert min(one["score"] for one in said) > 0.5  # both, so no softmax
    assert not (output / "confusion_matrix.png").exists()


def test_numbers_are_learnt(finetune) -> None:
    output, results = finetune("--label_column", "height", "--problem_type", "regression", "--max_steps", 60,
                               "--learning_rate", 2e-3, *AT_THE_END, *FAST)  # fmt: skip
    heights = np.array([300, 900, 2500])[LABELS]
    held_out = heights[np.arange(36) % 4 == 3]
    assert results["results"]["eval_mse"] < 0.3 * held_out.var()
    assert results["results"]["eval_pearson"] > 0.85
    model, extractor = (
        kind.from_pretrained(output) for kind in (AutoModelForAudioClassification, AutoFeatureExtractor)
    )
    assert model.config.id2label == {0: "height"} and model.config.problem_type == "regression"
    with torch.no_grad():
        said = [model(**extractor(w, sampling_rate=16_000, return_tensors="pt")).logits.item() for w in WAVES[3::4]]
    assert np.mean((np.array(said) - held_out) ** 2) == pytest.approx(results["results"]["eval_mse"], rel=0.02)


def test_a_fresh_norm_a_probe_few_clips_and_balanced_classes_go_together(finetune, base: Path) -> None:
    output, results = finetune("--pooling", "mean_fc_norm", "--linear_probe", "--k_shot", 2, "--class_balanced",
                               "--max_steps", 2, *AT_THE_END)  # fmt: skip
    assert results["clips"]["train"] == 6 and results["settings"]["k_shot"] == 2
    trained, given = load_file(output / "model.safetensors"), load_file(base / "model.safetensors")
    fresh = {name for name in trained if name not in given}
    assert fresh == {"audio_mae.fc_norm.weight", "audio_mae.fc_norm.bias", "classifier.weight", "classifier.bias"}
    assert all(torch.equal(value, given[name]) for name, value in trained.items() if name not in fresh)
    assert trained["audio_mae.fc_norm.weight"].eq(1).all()
    config = json.loads((output / "config.json").read_text())
    assert config["pooling"] == "mean_fc_norm" and config["drop_path_rate"] == 0


def test_a_classifier_is_fine_tuned_further_and_random_weights_are_random(finetune, base: Path, tmp_path: Path) -> None:
    flags = ["--max_steps", 1, *AT_THE_END]
    first, _ = finetune(*flags, output=tmp_path / "first")
    second, _ = finetune("--model_name_or_path", first, "--label_column", "tags", "--label_separator", ";", *flags,
                         "--learning_rate", 0, output=tmp_path / "second")  # fmt: skip
    one, two = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert all(torch.equal(value, two[name]) for name, value in one.items() if not name.startswith("classifier"))
    assert two["classifier.weight"].shape == (2, 32)
    other, results = finetune("--random_weights", *flags, output=tmp_path / "other")
    assert results["random_weights"]
    given, random = load_file(base / "model.safetensors"), load_file(other / "model.safetensors")
    weights = [name for name in random if name.endswith("proj.weight")]
    assert len(weights) == 8
    assert all(abs(np.corrcoef(given[name].flatten(), random[name].flatten())[0, 1]) < 0.2 for name in weights)


# --- whole runs in processes of their own

RUN = ["--max_steps", "8", "--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "2", "--save_steps",
       "2", "--save_total_limit", "9", "--logging_steps", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(base: Path, sounds: Path, tmp_path_factory: pytest.TempPathFactory):
    """A run that was never stopped, with all augmentation, pushed: its folder, what was printed, and the hub."""
    output = tmp_path_factory.mktemp("whole") / "classifier"
    with HubServer() as hub:
        environment = hub.environment(tmp_path_factory.mktemp("home"))
        flags = arguments(base, sounds, output, *RUN, "--push_to_hub", "--hub_model_id", "user/classifier")
        yield output, launch(ROOT / "examples/finetune.py", *flags, environment=environment), hub


@pytest.mark.parametrize("step, process", [(2, False), (4, True), (6, False)])
def test_resuming_equals_never_having_stopped(
    whole, base: Path, sounds: Path, tmp_path: Path, finetune, step: int, process: bool
) -> None:
    """Epochs have three steps: within the first and the second, and between two; in a process of its own, or not."""
    for done in range(0, step + 1, 2):
        shutil.copytree(whole[0] / f"checkpoint-{done}", tmp_path / f"checkpoint-{done}")
    flags = [*RUN, "--resume_from_checkpoint", "true"]
    if process:
        run_example("finetune.py", *arguments(base, sounds, tmp_path, *flags)).well()
    else:
        finetune(*flags, output=tmp_path)
    for name in ("model.safetensors", "checkpoint-8/model.safetensors"):
        expected, actual = load_file(whole[0] / name), load_file(tmp_path / name)
        assert expected.keys() == actual.keys()
        assert all(torch.equal(value, actual[key]) for key, value in expected.items()), name
    folders = [folder / "checkpoint-8" for folder in (whole[0], tmp_path)]
    states = [torch.load(folder / "optimizer.pt", weights_only=True) for folder in folders]
    assert len(states[0]["state"]) > 30
    for key, entry in states[0]["state"].items():
        assert all(torch.equal(value, states[1]["state"][key][name]) for name, value in entry.items())
    logs = [json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in folders]
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in logs]
    assert losses[0] == losses[1] and len(losses[0]) == 8


def test_what_is_pushed_is_the_classifier_its_code_and_card(whole) -> None:
    output, printed, hub = whole
    files = hub.files("user/classifier")
    assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"} <= set(files)
    assert not any(name.startswith("checkpoint") or name.endswith((".pt", ".bin")) for name in files)
    assert files["model.safetensors"] == (output / "model.safetensors").read_bytes()
    assert "Pushed it" in printed and hub.unhandled == []


def test_two_processes_stay_in_step(base: Path, sounds: Path, tmp_path: Path) -> None:
    flags = arguments(base, sounds, tmp_path, "--max_steps", 5, "--per_device_train_batch_size", 5, "--class_balanced",
                      *AT_THE_END)  # fmt: skip
    run_example(ROOT / "tests/examples/two_process_finetune.py", *flags, world=2).well()
    first, second = (torch.load(tmp_path / f"trace-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["world_size"] == second["world_size"] == 2
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    assert not set(first["clips"][0]) & set(second["clips"][0]) and first["clips"] != second["clips"]
    classes = LABELS[sum(first["clips"], []) + sum(second["clips"], [])]
    assert len(classes) == 50 and np.bincount(classes).min() >= 14
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["processes"] == 2
    # Each process evaluated a part, and what is saved is what was measured.
    classify = pipeline("audio-classification", model=str(tmp_path))
    said = [classify(WAVES[row], top_k=1)[0]["label"] for row in range(3, 36, 4)]
    hits = np.array([NAMES[label] for label in LABELS[3::4]]) == said
    assert results["results"]["eval_accuracy"] == pytest.approx(hits.mean())


# --- what is refused, before any training


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--label_column", "breed"], "no column 'breed'"),
        (["--label_column", "hole"], "5.wav has no hole"),
        (["--label_column", "odd", "--problem_type", "regression"], "7.wav has odd='tall'"),
        (["--label_column", "same"], "1 classes"),
        (["--label_column", "rare"], "The eval rows have clips of owl"),
        (["--k_shot", "10"], "has 9 training rows, k_shot=10"),
        (["--eval_where", "fold=9"], "No row has fold=9"),
        (["--test_where", "fold=0,1,2,3"], "All 36 clips are held out"),
        (["--where", "fold=3"], "All 9 clips are held out"),
        (["--where", "label=mid"], "1 classes"),
        (["--test_where", "colour=red"], "no column 'colour'"),
        (["--dataset_split", "test"], "no effect on folders"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_any_training(finetune, monkeypatch, tmp_path, flags, message) -> None:
    def train(*args, **kwargs):
        raise AssertionError("it trained")

    monkeypatch.setattr("uamix_hf.fine_tuning.FineTuningTrainer.train", train)
    with pytest.raises(DataError, match=message):
        finetune(*flags)
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_label_column_is_asked_for(base: Path, sounds: Path, tmp_path: Path, monkeypatch) -> None:
    flags = arguments(base, sounds, tmp_path)
    place = flags.index("--label_column")
    monkeypatch.setattr(sys, "argv", ["finetune.py", *flags[:place], *flags[place + 2 :]])
    with pytest.raises(DataError, match="Give --label_column"):
        runpy.run_path(str(ROOT / "examples" / "finetune.py"), run_name="__main__")


# --- few labels and many clips without


def test_settings_of_fixmatch_are_refused_without_it(finetune) -> None:
    with pytest.raises(ValueError, match="unlabelled_ratio: without effect here, goes with --fixmatch true"):
        finetune("--k_shot", 3, "--unlabelled_ratio", 2)


def test_fixmatch_learns_from_the_training_rows_that_k_shot_leaves_out(finetune) -> None:
    folder, results = finetune(
        *FAST, *AT_THE_END, "--k_shot", 3, "--fixmatch", "true", "--confidence_threshold", 0.5, "--max_steps", 4,
        "--unlabelled_ratio", 2, "--logging_steps", 1, "--test_where", "fold=2",
    )  # fmt: skip
    assert results["clips"] == {"train": 9, "test": 9, "eval": 9}
    assert results["settings"]["fixmatch"] and results["settings"]["confidence_threshold"] == 0.5
    assert "confidence_threshold" in (folder / "README.md").read_text()
    assert AutoModelForAudioClassification.from_pretrained(folder).config.num_labels == 3


def test_fixmatch_takes_folders_without_labels(finetune, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for number in range(5):
        soundfile.write(other / f"{number}.wav", WAVES[number], 16_000)
    flags = [*FAST, *AT_THE_END, "--fixmatch", "true", "--unlabelled_dir", other, "--max_steps", 2]
    assert finetune(*flags)[1]["clips"]["train"] == 27


def test_fixmatch_without_clips_is_refused_before_training(finetune) -> None:
    with pytest.raises(DataError, match="all training rows are labelled"):
        finetune("--fixmatch", "true")


def test_fixmatch_resumes_as_if_it_had_never_stopped(finetune, tmp_path: Path) -> None:
    flags = ["--k_shot", 4, "--fixmatch", "true", "--confidence_threshold", 0.4, "--max_steps", 5, "--save_strategy",
             "steps", "--save_steps", 3, "--save_total_limit", 9, "--eval_strategy", "no",
             "--load_best_model_at_end", "false",
             "--per_device_train_batch_size", 5]  # fmt: skip
    whole, _ = finetune(*flags, output=tmp_path / "whole")
    shutil.copytree(whole / "checkpoint-3", tmp_path / "part" / "checkpoint-3")
    part, _ = finetune(*flags, "--resume_from_checkpoint", "true", output=tmp_path / "part")
    expected, actual = (load_file(folder / "model.safetensors") for folder in (whole, part))
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())
