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
from safetensors.torch import load_file
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from uamix_hf import AudioEmbedder, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.embedding import load_encoder, make_adapter
from uamix_hf.embedding.kinds import settings_of

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "reproduction"


def read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def flags_given() -> dict[str, set[str]]:
    """Flags by the example that they are given to."""
    recipe, whisper, poolings, defaults, fine_tuning, shell = (
        json.loads(read("recipe.json")),
        json.loads(read("whisper.json")),
        json.loads(read("poolings.json")),
        json.loads(read("defaults.json")),
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
        + " ".join(
            text
            for settings in (whisper, poolings, defaults)
            for text in (
                settings["common"],
                settings["uamix"],
                *(entry["flags"] for entry in settings["variants"].values()),
            )
        ),  # fmt: skip
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


@pytest.mark.parametrize("script", ["recipe.py", "recipe_table.py", "fine_tuning.py", "linearity.py"])
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


def write_sets(folder: Path, samples: int = 2400) -> Path:
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
                    time = np.arange(samples) / 16_000
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


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    for other in ("recipe", "speakers", name):
        monkeypatch.delitem(sys.modules, other, raising=False)
    return importlib.import_module(name)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("recipe", monkeypatch)


@pytest.fixture
def linearity(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("linearity", monkeypatch)


VARIANTS = {
    "raw": {"untuned": True, "whiten": False, "layer": 1, "flags": "", "why": "not tuned"},
    "whitened": {"untuned": True, "layer": 1, "flags": "", "why": "whitened"},
    "random": {"untuned": True, "random": True, "layer": 1, "flags": "", "why": "random"},
    "tuned": {"layer": 1, "pooling": "mean", "flags": "--learning_rate 2e-5 --warmup_steps 0", "why": "tuned"},
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
    assert words[words.index("--pooling") + 1] == "mean"
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
    assert "`--embedding_layer 1 --pooling mean --learning_rate 2e-5 --warmup_steps 0`" in rows[2]


def run_table(monkeypatch: pytest.MonkeyPatch, output: Path, settings: Path, against: str, *more: str | Path) -> None:
    words = ["recipe_table.py", "--output_dir", output, "--settings", settings, "--against", against, *more]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    runpy.run_path(str(FOLDER / "recipe_table.py"), run_name="__main__")


def test_the_same_variant_of_two_encoders_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The second is better by 2 points in each episode of each set, in 5-shot by 3: that is its gain, for certain."""
    rng, settings = np.random.default_rng(0), tmp_path / "settings.json"
    settings.write_text(json.dumps({"variants": {"raw": VARIANTS["raw"]}}))
    for k in (1, 5):
        for name in SETS:
            values, levels = rng.uniform(0.2, 0.8, 40), np.arange(40)
            for encoder, gain in (("first", 0), ("second", {1: 0.02, 5: 0.03}[k])):
                folder = tmp_path / encoder / "validation"
                folder.mkdir(parents=True, exist_ok=True)
                found = {"values": values + gain, "classes": levels % 5, "trials": levels}
                path = folder / "raw-0.npz"
                earlier = dict(np.load(path)) if path.exists() else {}
                np.savez(path, **earlier, **{f"{name}/{k}-shot/{part}": array for part, array in found.items()})
    run_table(monkeypatch, tmp_path / "second", settings, "raw", "--against_dir", tmp_path / "first")
    (row,) = capsys.readouterr().out.splitlines()[2:]
    assert row.split(" | ")[3:6] == ["+2.0 [+2.0, +2.0]", "+3.0 [+3.0, +3.0]", "+3.0, +3.0, +3.0, +3.0"]


def test_a_variant_has_training_folders_of_its_own(recipe: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, data, settings = whisper_folder(tmp_path / "source"), write_sets(tmp_path / "data"), tmp_path / "more.json"
    (data / "open").mkdir()
    (data / "esc10").rename(data / "open/esc10")  # in a folder of folders
    more = {"more": ["open/esc10:fold=1", "urbansound8k_sub"], "all": ["urbansound8k_sub"]}
    variants = {
        "tuned": {"training": "more", "flags": "--mix none"},
        "whitened": {"of": "tuned", "whiten": True, "training": "more"},
    }
    settings.write_text(json.dumps({"common": COMMON, "uamix": UAMIX, "training": more, "variants": variants}))
    arguments = recipe.RecipeArguments(str(source), str(tmp_path), str(data), str(settings))
    words = " ".join(recipe.command(arguments, variants["tuned"], 0, tmp_path / "tuned-0"))
    assert f" --train_dir {data}/open/esc10 {data}/urbansound8k_sub --where esc10:fold=1 --save_strategy" in words
    words = " ".join(recipe.command(arguments, {"training": "all", "flags": ""}, 0, tmp_path / "tuned-0"))
    assert f" --train_dir {data}/urbansound8k_sub --save_strategy" in words

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


@pytest.mark.slow
def test_the_projector_of_a_tuned_encoder_is_measured_after_a_whitening(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the layers as they are written in docs/concepts/method.md, by matrix products."""
    save = {"pooling": "mean", "flags": "--save_strategy steps --save_steps 1 --save_only_model true"}
    monkeypatch.setitem(VARIANTS, "saved", save)
    monkeypatch.setitem(VARIANTS, "projector", {"of": "saved", "projector": True, "flags": ""})
    output = run_recipe(recipe, monkeypatch, tmp_path, audio_mae_folder(tmp_path / "source"), ["saved", "projector"])
    data, folder = tmp_path / "data", output / "projector-0"
    assert not load_encoder(folder).config.whitening_size

    weights = {name: value.double().numpy() for name, value in load_file(folder / "projector.safetensors").items()}
    (checkpoint,) = (output / "saved-0").glob("checkpoint-*")
    saved = load_file(checkpoint / "model.safetensors")
    assert all(np.array_equal(saved[f"heads.projector.{name}"], value) for name, value in weights.items())
    embedder = AudioEmbedder.from_pretrained(str(folder), device="cpu")
    rows = [str(data / row.partition(":")[0]) for row in recipe.TRAINING_ROWS]
    recordings = recipe.load_recordings(rows, where=recipe.TRAINING_ROWS)
    vectors = embedder.encode(recordings["audio"][:], progress_bar=False).astype(np.float64)
    for linear, norm in ((0, 1), (3, 4), (6, 7)):
        vectors = vectors @ weights[f"{linear}.weight"].T
        scale = np.sqrt(weights[f"{norm}.running_var"] + 1e-5)
        vectors = (vectors - weights[f"{norm}.running_mean"]) / scale * weights[f"{norm}.weight"]
        vectors += weights[f"{norm}.bias"]
        vectors = vectors if norm == 7 else np.maximum(vectors, 0)
    settings = str(tmp_path / "settings.json")
    arguments = recipe.RecipeArguments(str(tmp_path / "source"), str(output), str(data), settings)
    found = recipe.embedding(arguments, "projector", str(folder))(recordings)
    assert np.allclose(found.mean(axis=0), 0, atol=1e-4)
    variances, directions = np.linalg.eigh(np.cov(vectors, rowvar=False))
    expected = (vectors - vectors.mean(axis=0)) @ directions / np.sqrt(variances + 0.3 * variances.mean())
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3)  # whatever the directions' signs
    with pytest.raises(FileNotFoundError, match="raw-0 has 0 checkpoints"):
        recipe.projector_weights(output / "raw-0")


def opened(linearity: Any, folder: Path) -> Any:
    return linearity.Encoder(linearity.LinearityArguments(str(folder)))


NOISE = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (audio_mae_folder, {name: name for name in ("cls", "mean", "mean_time", "mean_std_time", "std_time")}),
        (whisper_folder, {"mean": "mean", "mean_std_time": "mean_std"}),
    ],
)
def test_poolings_of_mixtures_are_those_of_the_package(linearity: Any, make: Any, names: Any, tmp_path: Path) -> None:
    encoder = opened(linearity, make(tmp_path / "source"))
    bins, lengths = encoder.front_end.num_mel_bins, torch.tensor([64, 35])
    values = torch.randn(2, 64, bins, generator=NOISE)
    tokens = encoder.tokens(values, lengths)
    found = tokens.poolings()
    for name, pooling in names.items():
        adapter = make_adapter(load_encoder(tmp_path / "source", pooling=pooling).eval())
        with torch.no_grad():
            expected = adapter.encode(values, lengths, 0.0, encoder.front_end.padding_value)[0]
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found["std_time"], found["mean_std_time"].chunk(2, dim=1)[1])
    assert ("cls" in found, "mean_time" in found) == ("cls" in names, "mean_time" in names)
    bands = tokens.visible.shape[2]
    grid = tokens.patches.unflatten(1, (-1, bands))
    valid = -(-lengths // encoder.adapter.patch)
    for row, count in enumerate(valid.tolist()):
        torch.testing.assert_close(found["max_time"][row], grid[row, :count].amax(dim=0).flatten())


def test_the_blend_of_tokens_that_do_not_see_each_other_explains_their_mean_alone(
    linearity: Any, tmp_path: Path
) -> None:
    """Without attention and MLP, a token of a mixture is that of the clip that it is cut from."""
    encoder = opened(linearity, audio_mae_folder(tmp_path / "source"))
    with torch.no_grad():
        for layer in encoder.adapter.layers:
            for linear in (layer.attention.o_proj, layer.mlp.fc2):
                linear.weight.zero_()
                linear.bias.zero_()
    clips = [{"features": 3 * torch.randn(64, 32, generator=NOISE)} for _ in range(40)]
    found = linearity.mixed(encoder, clips, "t-cutmix", 32, 0)
    r2 = {
        (name, blended): float(linearity.explained(kinds["mixture"], kinds[blended], 0).split()[0])
        for name, kinds in found.items()
        for blended in ("clips", "parts")
        if blended in kinds
    }
    assert r2["mean", "parts"] == r2["mean_time", "parts"] == 1.0
    assert r2["mean_time", "clips"] < 0.99 and r2["max_time", "parts"] < 0.99 and r2["std_time", "parts"] < 0.99
    assert ("cls", "parts") not in r2
    assert all(25 <= len(kinds["mixture"]) <= 32 for kinds in found.values())
    assert {name: kinds.keys() for name, kinds in linearity.mixed(encoder, clips, "mixup", 32, 0).items()} == {
        name: {"mixture", "clips"} for name in found
    }


def test_what_a_blend_explains_is_1_for_itself_and_0_for_the_mean(linearity: Any) -> None:
    rng = np.random.default_rng(0)
    mixtures = rng.normal(3, 1, (400, 5))
    assert linearity.explained(mixtures, mixtures, 0) == "1.00 [1.00, 1.00]"
    assert linearity.explained(mixtures, np.tile(mixtures.mean(axis=0), (400, 1)), 0) == "0.00 [0.00, 0.00]"
    # Noise of a third of the variance leaves two thirds; its standard error is below 0.03 here.
    value, low, high = map(float, re.findall(r"[-.\d]+", linearity.explained(
        mixtures, mixtures + rng.normal(0, 1 / 3**0.5, mixtures.shape), 0)))  # fmt: skip
    assert value == pytest.approx(2 / 3, abs=0.06) and 0.01 < high - low < 0.1 and low < value < high


def test_the_table_has_a_row_for_each_pooling(
    linearity: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    data = write_sets(tmp_path / "data", 9600)
    monkeypatch.setattr(sys.modules["recipe"], "TRAINING_ROWS", ("esc10:fold=1", "fsdd:speaker=george"))
    words = ["linearity.py", "--model_name_or_path", audio_mae_folder(tmp_path / "source"), "--data", data, "--sets",
             "esc10", "--pairs", 20, "--episodes", 3]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    linearity.main()
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header == (
        "| pooling | esc10: t-cutmix, clips | esc10: t-cutmix, parts | esc10: mixup, clips | 1-shot / 5-shot |"
    )
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in linearity.POOLINGS]
    assert rows[0].split(" | ")[2] == "-" and all("nan" not in row for row in rows)


def test_a_variant_of_fine_tuning_is_compared_with_each_of_its_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Of the paired draws: two classes in 15 draws, on which the three variants have 40, 50 and 70 %."""
    accuracies = {"5 labels, defaults": 0.4, "5 labels, tuned, nearest centroid": 0.5, "5 labels, tuned, defaults": 0.7}
    for variant, accuracy in accuracies.items():
        for draw in range(15):
            folder = tmp_path / "esc10" / variant.replace(", ", "-").replace(" ", "-") / str(draw)
            folder.mkdir(parents=True)
            results = {f"test_accuracy_{name}": accuracy for name in "ab"}
            (folder / "results.json").write_text(json.dumps({"label_names": ["a", "b"], "results": results}))
    words = ["fine_tuning.py", "--output_dir", str(tmp_path), "--sets", "esc10", "--table_only", "true"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.syspath_prepend(str(FOLDER))
    runpy.run_path(str(FOLDER / "fine_tuning.py"), run_name="__main__")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 5 labels, tuned, defaults |")]
    assert [row.split(" | ")[3:5] for row in rows] == [
        ["5 labels, tuned, nearest centroid", "+20.0 [+20.0, +20.0]"],
        ["5 labels, defaults", "+30.0 [+30.0, +30.0]"],
    ]
