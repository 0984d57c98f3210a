"""examples/tune.py through `accelerate launch`, on real recordings, as its users run it."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hub_server import HubServer
from processes import launch, run_code, run_example
from safetensors.torch import load_file
from toy_sounds import tones
from transformers import AutoFeatureExtractor, AutoModel
from travelling import AUDIO_MAE_CODE

from uamix_hf import AudioEmbedder, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEForPreTraining, load_audio
from uamix_hf.data import load_recordings

ROOT = Path(__file__).parents[2]
HEAD_STEPS, STEPS, SAVED = 4, 24, 12
SMALL = ["--projector_hidden_size", 64, "--projection_size", 32, "--predictor_hidden_size", 64]
PULL = """
import sys
sys.modules["uamix_hf"] = None  # as where the package is not installed
import numpy as np, torch
from transformers import AutoFeatureExtractor, AutoModel
extractor = AutoFeatureExtractor.from_pretrained("user/tuned", trust_remote_code=True)
model = AutoModel.from_pretrained("user/tuned", trust_remote_code=True)
inputs = extractor(np.load(sys.argv[1]), sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    np.save(sys.argv[2], model(**inputs).pooler_output.numpy())
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained encoder's folder, small enough to tune in seconds."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = AudioMAEConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=3, intermediate_size=96, decoder_hidden_size=32,
        decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=64,
    )  # fmt: skip
    AudioMAEForPreTraining(config).save_pretrained(folder)
    AudioMAEFeatureExtractor().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\nA base model.\n")
    return folder


def tune_arguments(base: Path, esc10: Path, output: Path) -> list[object]:
    return [
        "--model_name_or_path", base, "--train_dir", esc10, "--where", "fold=1,2", "--where", "split=train",
        "--output_dir", output, "--use_cpu", "--recipe", "plastic",
        "--label_column", "label", "--group_column", "src_file", "--head_steps", HEAD_STEPS, "--max_steps", STEPS,
        "--freeze_blocks", 0.5, "--per_device_train_batch_size", 32, "--learning_rate", 2e-3, "--logging_steps", 1,
        "--save_steps", SAVED, "--report_to", "none", *SMALL,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(base: Path, esc10: Path, tmp_path_factory: pytest.TempPathFactory):
    """One whole run: tuned on real recordings and pushed. The output folder, what was printed, and the hub."""
    output = tmp_path_factory.mktemp("run") / "tuned"
    with HubServer() as hub:
        environment = hub.environment(tmp_path_factory.mktemp("home"))
        printed = launch(
            "examples/tune.py", *tune_arguments(base, esc10, output), "--push_to_hub", "--hub_model_id", "user/tuned",
            environment=environment,
        )  # fmt: skip
        yield output, printed, hub


def history(output: Path, step: int = STEPS) -> list[dict]:
    return json.loads((output / f"checkpoint-{step}" / "trainer_state.json").read_text())["log_history"]


def test_loss_falls_and_its_parts_are_logged(run) -> None:
    output, _, _ = run
    log = [entry for entry in history(output) if "loss" in entry]
    assert len(log) == STEPS
    for name in ("loss_clean", "loss_mixed", "mix_lambda", "neighbour_purity", "embedding_std"):
        assert all(np.isfinite(entry[name]) for entry in log), name
    assert np.mean([e["loss_clean"] for e in log[-6:]]) < np.mean([e["loss_clean"] for e in log[:6]]) - 0.1
    assert all(0.5 <= entry["mix_lambda"] <= 1 for entry in log)
    checks = [entry["knn_accuracy"] for entry in history(output) if "knn_accuracy" in entry]
    assert len(checks) == 2 and all(0 <= check <= 1 for check in checks)


def test_lower_blocks_are_bit_identical_and_upper_ones_moved(run, base: Path) -> None:
    before, after = load_file(base / "model.safetensors"), load_file(run[0] / "model.safetensors")
    assert after.keys() - {name.removeprefix("audio_mae.") for name in before} == {"whitening.mean", "whitening.matrix"}
    for name, tuned in after.items():
        if name.startswith("whitening."):
            continue
        same = torch.equal(tuned, before[f"audio_mae.{name}"])
        assert same == name.startswith(("embeddings.", "layers.0.", "layers.1.")), name


def test_output_loads_in_a_fresh_process_and_embeds(run, esc10: Path, tmp_path: Path) -> None:
    code = (
        "import sys, uamix_hf, numpy as np\nfrom transformers import AutoModel, AutoFeatureExtractor\n"
        "m = AutoModel.from_pretrained(sys.argv[1]); e = AutoFeatureExtractor.from_pretrained(sys.argv[1])\n"
        "w = uamix_hf.load_audio(sys.argv[2]); v = m(**e(w, sampling_rate=16000, return_tensors='pt')).pooler_output\n"
        "assert type(m).__name__ == 'AudioMAEModel' and v.shape == (1, 48) and v.isfinite().all()"
    )
    clip = next((esc10 / "audio").iterdir())
    run_code(code, tmp_path, run[0], clip).well()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tune", "head"])
def test_resuming_equals_never_having_stopped(run, base: Path, esc10: Path, tmp_path: Path, stage: str) -> None:
    """From a checkpoint of either stage: the same weights, neighbour queue, target and optimiser, bit by bit."""
    whole, resumed = run[0], tmp_path / "resumed"
    checkpoint = f"checkpoint-{SAVED}" if stage == "tune" else f"head/checkpoint-{HEAD_STEPS}"
    shutil.copytree(whole / checkpoint, resumed / checkpoint)
    run_example("tune.py", *tune_arguments(base, esc10, resumed), "--resume_from_checkpoint", "true").well()
    for name in ("model.safetensors", f"checkpoint-{STEPS}/model.safetensors"):
        expected, actual = load_file(whole / name), load_file(resumed / name)
        assert expected.keys() == actual.keys()
        assert all(torch.equal(value, actual[key]) for key, value in expected.items()), name
    assert actual["neighbour_queue.ids"].ge(0).all() and "heads.target_projector.0.weight" in actual
    states = [
        torch.load(folder / f"checkpoint-{STEPS}" / "optimizer.pt", weights_only=True) for folder in (whole, resumed)
    ]
    for key, entry in states[0]["state"].items():
        assert all(torch.equal(value, states[1]["state"][key][name]) for name, value in entry.items())


def test_pushed_repository_is_exactly_encoder_preprocessor_code_and_card(run) -> None:
    output, printed, hub = run
    files = hub.files("user/tuned")
    published = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", *AUDIO_MAE_CODE}
    published |= {"modules.json", "config_sentence_transformers.json"}
    assert set(files) - {".gitattributes"} == published
    assert files["model.safetensors"] == (output / "model.safetensors").read_bytes()
    assert "Pushed it" in printed and hub.unhandled == []


@pytest.mark.slow
def test_a_process_without_the_package_pulls_the_pushed_encoder(run, tmp_path: Path) -> None:
    output, _, hub = run
    wave = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)
    np.save(tmp_path / "wave.npy", wave)
    subprocess.run(
        [sys.executable, "-c", PULL, str(tmp_path / "wave.npy"), str(tmp_path / "vector.npy")],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | hub.environment(tmp_path / "home"), check=True, cwd=tmp_path,
    )  # fmt: skip
    model, extractor = AutoModel.from_pretrained(output), AutoFeatureExtractor.from_pretrained(output)
    with torch.no_grad():
        expected = model(**extractor(wave, sampling_rate=16_000, return_tensors="pt")).pooler_output.numpy()
    np.testing.assert_allclose(np.load(tmp_path / "vector.npy"), expected, atol=1e-6)


def test_card_tells_what_was_done(run) -> None:
    card = (run[0] / "README.md").read_text()
    parts = [
        "license: cc-by-nc-4.0",
        "esc10, fold=1,2, split=train, 160 clips",
        "| mix | t-cutmix |",
        "| freeze_blocks | 0.5 |",
    ]
    parts += [f"| updates | {STEPS} |", "| seed | 42 |", "transformers 5.", 'from_pretrained("user/tuned"']
    for part in parts:
        assert part in card, part
    assert str(run[0]) not in card


@pytest.mark.slow
def test_two_processes_keep_identical_neighbour_queues(base: Path, esc10: Path, tmp_path: Path) -> None:
    arguments = ["--model_name_or_path", base, "--train_dir", esc10, "--where", "fold=1", "--output_dir", tmp_path]
    arguments += [
        "--use_cpu",
        "--head_steps",
        2,
        "--max_steps",
        6,
        "--per_device_train_batch_size",
        8,
        "--queue_size",
        20,
        "--recipe",
        "plastic",
    ]
    arguments += ["--report_to", "none", *SMALL]  # 20 is no multiple of 16: the queue wraps inside a batch
    launch("tests/examples/two_process_tune.py", *arguments, processes=2)
    first, second = (torch.load(tmp_path / f"trace-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.pop("world_size") == second.pop("world_size") == 2
    assert first["ids"].ge(0).all() and first["pointer"].item() == 8 * 2 * 8 % 20
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert "| processes | 2 |" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "model.safetensors").is_file()


def test_unreadable_files_stop_the_run_or_are_listed(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sounds" / "nested"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(6):
        soundfile.write(folder / f"{i}.wav", rng.normal(0, 0.1, 8000 + 2000 * i), 16_000)
    (folder / "broken.wav").write_bytes(b"not sound")
    arguments = ["--model_name_or_path", base, "--train_dir", tmp_path / "sounds", "--output_dir", tmp_path / "out"]
    arguments += ["--use_cpu", "--head_steps", 0, "--max_steps", 1, "--report_to", "none", "--mix", "none", *SMALL]
    stopped = run_example("tune.py", *arguments)
    assert stopped.codes == [1] and "broken.wav: not readable" in stopped.printed[0]
    printed = run_example("tune.py", *arguments, "--on_error", "skip").well()
    assert "1 recordings were left out" in printed and "broken.wav: not readable" in printed
    assert load_audio(folder / "0.wav").shape == (8000,)


# --- short runs, in this process


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve short clips of three classes, each in its folder."""
    folder = tmp_path_factory.mktemp("sounds")
    waves, labels = tones(12)
    lines = ["file_name,label"]
    for number, (wave, label) in enumerate(zip(waves, labels, strict=True)):
        soundfile.write(folder / f"{number}.wav", wave, 16_000)
        lines.append(f"{number}.wav,{'abc'[label]}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def tune(base: Path, sounds: Path, tmp_path: Path, monkeypatch, capsys):
    """`tune(*flags)`: weights of the tuned encoder and of the base, the card, and what was printed."""

    def tune(*flags: object) -> tuple[dict, dict, str, str]:
        fixed = [
            "--model_name_or_path",
            base,
            "--train_dir",
            sounds,
            "--output_dir",
            tmp_path,
            "--use_cpu",
            "--per_device_train_batch_size",
            6,
            "--max_steps",
            2,
            "--report_to",
            "none",
            "--whiten",
            "false",
            "--recipe",
            "plastic",
        ]
        monkeypatch.setattr(sys, "argv", ["tune.py", *map(str, [*fixed, *flags])])
        runpy.run_path(str(ROOT / "examples" / "tune.py"), run_name="__main__")
        given = load_file(base / "model.safetensors")
        given = {name.removeprefix("audio_mae."): value for name, value in given.items() if "decoder" not in name}
        tuned, card = load_file(tmp_path / "model.safetensors"), (tmp_path / "README.md").read_text()
        assert {name: value.shape for name, value in tuned.items()} == {n: v.shape for n, v in given.items()}
        configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path, base)]
        assert configs[0] | {"architectures": None} == configs[1] | {"architectures": None}
        return tuned, given, card, capsys.readouterr().out

    return tune


def test_the_saved_encoder_is_white_over_the_training_clips(run, esc10: Path) -> None:
    recordings = load_recordings(str(esc10), where=["fold=1,2", "split=train"])
    vectors = AudioEmbedder.from_pretrained(str(run[0])).encode(recordings["audio"][:], progress_bar=False)
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=0.05)
    spread = np.linalg.eigvalsh(np.cov(vectors, rowvar=False))
    assert 0.5 < spread.max() < 1.05  # the direction of most spread, which shrinkage hardly touches
    card = (run[0] / "README.md").read_text()
    assert "| whiten | True |" in card


def changed(tuned: dict, given: dict) -> set[str]:
    return {name for name, value in tuned.items() if not torch.equal(value, given[name])}


def test_head_only_tuning_trains_the_last_norm_alone(tune) -> None:
    tuned, given, card, _ = tune("--freeze_blocks", 4, "--head_steps", 1, *SMALL)
    assert changed(tuned, given) == {"layernorm.weight", "layernorm.bias"}
    assert "| freeze_blocks | 4.0 |" in card


def test_random_weights_have_nothing_of_the_given_ones_but_their_shapes(tune) -> None:
    tuned, given, card, printed = tune("--random_weights", *SMALL, "--head_steps", 0)
    assert "random weights" in printed and "training started from **random weights**" in card
    matrices = [name for name in tuned if name.endswith("proj.weight") or "fc" in name and name.endswith("weight")]
    assert len(matrices) == 4 * 6
    for name in matrices:
        assert abs(np.corrcoef(tuned[name].flatten(), given[name].flatten())[0, 1]) < 0.1, name


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--eval_group_column", "speaker"], "eval_group_column: without effect here, goes with eval_dir"),
        (["--mix", "none", "--mix_alpha", 2, "--pairing", "reverse"], "mix_alpha, pairing: without effect here"),
    ],
)
def test_settings_of_what_is_not_done_are_refused(tune, flags, message) -> None:
    with pytest.raises(ValueError, match=message):
        tune(*flags)


def test_few_shot_accuracy_before_and_after_is_printed_and_on_the_card(tune, tmp_path: Path) -> None:
    labelled = tmp_path / "labelled"
    for number, wave in enumerate(tones(6)[0] * 7):  # of 7 classes, 6 clips each
        folder = labelled / f"class-{number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{number}.wav", wave * (1 + 0.01 * number), 16_000)
    where = ",".join(f"class-{number}" for number in range(6))
    _, _, card, printed = tune("--eval_dir", labelled, "--eval_where", f"label={where}", "--head_steps", 0, *SMALL)
    assert "mean and 95 % interval on 36 clips" in printed and "1-shot" in printed and "5-shot" in printed
    assert "## Evaluation before and after tuning" in card and ": 36 clips of 6 classes" in card


def test_groups_without_the_check_that_they_are_for_are_refused(tune) -> None:
    with pytest.raises(ValueError, match="takes label_column, and which clips guards hold out"):
        tune("--group_column", "src_file")
