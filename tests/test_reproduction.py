"""reproduction/: its page names every script, all flags that are given to examples exist, and encoders are measured."""

import importlib
import json
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from uamix_hf import AudioEmbedder, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.embedding import load_encoder
from uamix_hf.embedding.kinds import settings_of

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "reproduction"


def read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def flags_given() -> dict[str, set[str]]:
    """Flags by the example that they are given to."""
    recipe, whisper, fine_tuning, shell = (
        json.loads(read("recipe.json")),
        json.loads(read("whisper.json")),
        json.loads(read("fine_tuning.json")),
        read("checkpoints.sh"),
    )
    command = read("recipe.py").partition("def command(")[2].partition("\ndef ")[0]
    variants, baselines = (
        [entry["flags"] for entry in recipe["variants"].values() if ("script" in entry) == baseline]
        for baseline in (False, True)
    )
    groups = [entry["flags"] for part in ("sets", "variants") for entry in fine_tuning[part].values()]
    groups += [fine_tuning["defaults"], *(entry["rows"] for entry in fine_tuning["sets"].values())]
    draws = [draw for entry in fine_tuning["sets"].values() for draw in entry["draws"] + entry.get("seeds", [])]
    texts = {
        "pretrain.py": shell.partition("pretrain.py")[2].partition("uamix-hf export")[0],
        "tune.py": shell.partition("tune.py")[2].partition("uamix-hf export")[0]
        + " ".join([command, recipe["common"], recipe["uamix"], *variants])
        + " ".join([whisper["common"], whisper["uamix"], *(entry["flags"] for entry in whisper["variants"].values())]),
        "pseudo_labels.py": " ".join([command, recipe["common"], *baselines]),
        "finetune.py": " ".join([fine_tuning["common"], *groups, *draws]),
        "few_shot.py": shell.partition("few_shot.py")[2],
    }
    launcher = {"--num_processes", "--num_machines", "--mixed_precision", "--dynamo_backend"}
    return {script: set(re.findall(r"--\w+", text)) - launcher for script, text in texts.items()}


@pytest.mark.parametrize("script", ["pretrain.py", "tune.py", "pseudo_labels.py", "finetune.py", "few_shot.py"])
def test_flags_that_are_given_exist(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given = flags_given()[script]
    assert len(given) >= 8
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
    assert given <= set(re.findall(r"--\w+", capsys.readouterr().out))


@pytest.mark.parametrize("script", ["recipe.py", "recipe_table.py", "fine_tuning.py"])
def test_commands_of_the_page_have_flags_that_exist(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    commands = re.findall(rf"`python reproduction/{script} (.*?)`", read("README.md"))
    assert commands
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.syspath_prepend(str(FOLDER))
    with pytest.raises(SystemExit):
        runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert set(re.findall(r"--\w+", " ".join(commands))) <= set(re.findall(r"--\w+", capsys.readouterr().out))


def test_the_page_names_every_file() -> None:
    files = {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md"}
    assert files == set(re.findall(r"\]\((\w+\.\w+)\)", read("README.md")))


WORDS = ("one", "two", "three", "four", "five")
SETS = {  # rows of each set for training and for validation
    "esc10": ("fold=1", "fold=4"),
    "fsdd": ("speaker=george", "speaker=lucas"),
    "speech_commands_sub": ("split=train", "split=test"),
    "urbansound8k_sub": ("fold=9", "fold=3"),
}


def write_sets(folder: Path) -> Path:
    """The four sets: five words, each a tone; six recordings of each to validate on, and three to train on."""
    rng = np.random.default_rng(0)
    for name, conditions in SETS.items():
        (folder / name).mkdir(parents=True)
        lines = ["file_name,label,fold,speaker,split,src_file,fs_id"]
        for condition, clips in zip(conditions, (3, 6), strict=True):
            for number in range(clips * len(WORDS)):
                # A half of the speakers of Speech Commands validates; they take turns.
                row = {"fold": "0", "speaker": f"{number:02d}", "split": "train", "src_file": number, "fs_id": number}
                row |= dict([condition.split("=")])
                copies = 2 if condition == "split=test" else 1
                for copy in range(copies):
                    file = f"{condition[-4:]}-{number}-{copy}.wav"
                    if copies == 2:
                        row["speaker"] = f"{2 * number + copy:03d}"
                    time = np.arange(2400) / 16_000
                    wave = np.sin(6.28 * 300 * 1.7 ** (number % len(WORDS)) * time) + rng.normal(0, 0.3, len(time))
                    soundfile.write(folder / name / file, 0.2 * wave, 16_000)
                    lines.append(",".join(map(str, [file, WORDS[number % len(WORDS)], *row.values()])))
        (folder / name / "metadata.csv").write_text("\n".join(lines))
    return folder


def whisper_folder(folder: Path) -> Path:
    config = WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=16, num_mel_bins=80,
        max_source_positions=50, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=8,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperEncoder(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=1).save_pretrained(folder)
    return folder


def audio_mae_folder(folder: Path) -> Path:
    config = AudioMAEConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
                            num_mel_bins=32, max_length=64)  # fmt: skip
    AudioMAEModel(config).save_pretrained(folder)
    AudioMAEFeatureExtractor(num_mel_bins=32, max_length=64).save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("recipe", "speakers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("recipe")


VARIANTS = {
    "raw": {"untuned": True, "whiten": False, "layer": 1, "flags": "", "why": "not tuned"},
    "whitened": {"untuned": True, "layer": 1, "flags": "", "why": "whitened"},
    "random": {"untuned": True, "random": True, "layer": 1, "flags": "", "why": "random"},
    "tuned": {"layer": 1, "flags": "--learning_rate 2e-5 --warmup_steps 0", "why": "tuned"},
    "tuned-raw": {"of": "tuned", "pooling": "mean", "flags": "", "why": "training alone"},
}
COMMON = "--use_cpu --max_steps 1 --per_device_train_batch_size 4"
UAMIX = "--head_steps 1 --projector_hidden_size 8 --projection_size 8 --predictor_hidden_size 8 --topk 1"


def run_recipe(recipe: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, source: Path, names: list[str]) -> Path:
    """Runs the script on validation rows, and returns the folder of its output."""
    data, settings, output = write_sets(folder / "data"), folder / "settings.json", folder / "output"
    settings.write_text(json.dumps({"common": COMMON, "uamix": UAMIX, "variants": VARIANTS}))
    conditions = [f"{name}:{training}" for name, (training, _) in SETS.items() if name != "urbansound8k_sub"]
    monkeypatch.setattr(recipe, "TRAINING_ROWS", tuple(conditions))
    words = ["recipe.py", "--model_name_or_path", source, "--data", data, "--settings", settings,
             "--output_dir", output, "--episodes", 3, "--variants", *names]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    recipe.main()
    return output


@pytest.mark.parametrize("make", [whisper_folder, pytest.param(audio_mae_folder, marks=pytest.mark.slow)])
def test_an_encoder_is_measured_at_a_layer_with_and_without_whitening(
    recipe: Any, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source, commands = make(tmp_path / "source"), []

    def tune(words: list[str], **options: Any) -> None:
        """In place of examples/tune.py: all weights are doubled, and the embedding is whitened."""
        commands.append(words)
        folder, layer = (words[words.index(flag) + 1] for flag in ("--output_dir", "--embedding_layer"))
        encoder = load_encoder(source, layer=int(layer))
        for weight in encoder.parameters():
            weight.data *= 2
        extractor = recipe.load_feature_extractor(source)
        recipe.fit_whitening(encoder, extractor, recipe.training_clips(arguments, {}, extractor))
        recipe.save_encoder(encoder, folder, extractor)

    arguments = recipe.RecipeArguments(str(source), "", str(tmp_path / "data"))
    monkeypatch.setattr(recipe, "subprocess", SimpleNamespace(run=tune, STDOUT=None))
    output = run_recipe(recipe, monkeypatch, tmp_path, source, list(VARIANTS))

    (words,) = commands
    assert words[-4:] == VARIANTS["tuned"]["flags"].split()
    assert {"--max_steps", "--head_steps", "--train_dir", "--where"} <= set(words)
    wave = np.random.default_rng(1).standard_normal(2400).astype(np.float32) / 10

    def embed(encoder: Any) -> np.ndarray:
        return AudioEmbedder(encoder, recipe.load_feature_extractor(source)).encode(wave, progress_bar=False)

    found = {name: AudioEmbedder.from_pretrained(str(output / f"{name}-0"), device="cpu") for name in VARIANTS}
    vectors = {name: embedder.encode(wave, progress_bar=False) for name, embedder in found.items()}
    np.testing.assert_array_equal(vectors["raw"], embed(load_encoder(source, layer=1)))
    doubled = load_encoder(source, layer=1)
    for weight in doubled.parameters():
        weight.data *= 2
    np.testing.assert_array_equal(vectors["tuned-raw"], embed(doubled))
    for one, other in (("whitened", "raw"), ("tuned", "tuned-raw"), ("random", "whitened")):
        assert not np.allclose(vectors[one], vectors[other], atol=1e-2)

    scores = json.loads((output / "validation" / "tuned-0.json").read_text())
    assert scores["means"].keys() == {f"{name}/{k}-shot" for name in SETS for k in (1, 5)}
    capsys.readouterr()
    run_table(monkeypatch, output, tmp_path / "settings.json", "raw")
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in VARIANTS if name != "raw"]
    assert "`--embedding_layer 1 --learning_rate 2e-5 --warmup_steps 0`" in rows[2]


def run_table(monkeypatch: pytest.MonkeyPatch, output: Path, settings: Path, against: str) -> None:
    words = ["recipe_table.py", "--output_dir", output, "--settings", settings, "--against", against]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    runpy.run_path(str(FOLDER / "recipe_table.py"), run_name="__main__")


def test_a_variant_has_training_folders_of_its_own(recipe: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, data, settings = whisper_folder(tmp_path / "source"), write_sets(tmp_path / "data"), tmp_path / "more.json"
    (data / "open").mkdir()
    (data / "esc10").rename(data / "open/esc10")  # in a folder of folders
    more = {"more": ["open/esc10:fold=1", "urbansound8k_sub"]}
    variants = {
        "tuned": {"training": "more", "flags": "--mix none"},
        "whitened": {"of": "tuned", "whiten": True, "training": "more"},
    }
    settings.write_text(json.dumps({"common": COMMON, "uamix": UAMIX, "training": more, "variants": variants}))
    arguments = recipe.RecipeArguments(str(source), str(tmp_path), str(data), str(settings))
    words = " ".join(recipe.command(arguments, variants["tuned"], 0, tmp_path / "tuned-0"))
    assert f" --train_dir {data}/open/esc10 {data}/urbansound8k_sub --where esc10:fold=1 --save_strategy" in words

    extractor = recipe.load_feature_extractor(source)
    recipe.save_encoder(load_encoder(source), tmp_path / "tuned-0", extractor)
    recipe.make(arguments, "whitened", 0, tmp_path / "whitened-0")
    files = [*(data / "open/esc10").glob("ld=1-*.wav"), *(data / "urbansound8k_sub").glob("*.wav")]
    embedder = AudioEmbedder.from_pretrained(str(tmp_path / "whitened-0"), device="cpu")
    vectors = embedder.encode(sorted(map(str, files)), progress_bar=False)
    assert len(vectors) == 15 + 15 + 30
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=2e-3)  # over the clips that it was fitted to
    assert abs(vectors[:15].mean(axis=0)).max() > 1e-2


@pytest.mark.slow
def test_whisper_is_tuned_at_a_layer(recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = whisper_folder(tmp_path / "source")
    output = run_recipe(recipe, monkeypatch, tmp_path, source, ["tuned", "tuned-raw"])
    tuned, raw = (load_encoder(output / f"{name}-0") for name in ("tuned", "tuned-raw"))
    assert (settings_of(tuned).layer, settings_of(raw).layer) == (1, 1)
    assert settings_of(tuned).whitening is not None and settings_of(raw).whitening is None
    changed = 0
    for name, weight in WhisperEncoder.from_pretrained(source).named_parameters():
        assert torch.equal(tuned.get_parameter(name), raw.get_parameter(name))
        changed += not torch.equal(tuned.get_parameter(name), weight)
    assert changed > 10
