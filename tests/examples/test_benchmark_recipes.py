"""The benchmarks of examples/benchmarks run by their files on small copies of the same layout, from a loopback Hub."""

import io
import itertools
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from datasets import Audio, ClassLabel, Dataset
from hub_server import HubServer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uamix_hf import AudioEmbedder

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "examples" / "benchmarks"
TINY = str(ROOT / "model_cards" / "audio-mae-tiny")
SIZES = {"train": 12, "validation": 4, "test": 8}
COMMANDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
WORDS = [*COMMANDS, "bed", "_silence_"]
TABLES = itertools.count()  # no clip is in two of them
# Clips that are tested, each once.
TESTED = {"esc50": 20, "gtzan": 8, "speech_commands_v2": 10, "nsynth_pitch": 8, "nsynth_instrument": 8}
RUN = """
import runpy, sys
root, model, output, *recipes = sys.argv[1:]
for recipe in recipes:
    sys.argv = [f"{root}/examples/few_shot.py", "--config", f"{root}/examples/benchmarks/{recipe}.yaml",
                "--model_name_or_path", model, "--output_dir", f"{output}/{recipe}"]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def sound(number: int) -> np.ndarray:
    """A tone in noise, 0.3 s."""
    rng = np.random.default_rng(number)
    tone = np.sin(2 * np.pi * 300 * 2 ** (number % 2) * np.arange(4800) / 16_000)
    return 0.3 * tone + 0.05 * rng.standard_normal(4800)


def table(column: str, labels: list[Any], names: list[str] | None = None, **columns: list[Any]) -> bytes:
    """A Parquet file with clips and labels; `names` are those of class numbers."""
    first, clips = 1000 * next(TABLES), []
    for number in range(len(labels)):
        file = io.BytesIO()
        soundfile.write(file, sound(first + number), 16_000, format="FLAC")
        clips.append({"bytes": file.getvalue(), "path": f"{number}.flac"})
    rows = Dataset.from_dict({"audio": clips, column: labels} | columns).cast_column("audio", Audio(decode=False))
    if names is not None:
        rows = rows.cast_column(column, ClassLabel(names=names))
    written = io.BytesIO()
    rows.to_parquet(written)
    return written.getvalue()


def in_splits(folder: str, column: str, names: list[str]) -> dict[str, bytes]:
    """Files of the three splits, whose labels are class numbers."""
    return {
        f"{folder}/{split}-00000-of-00001.parquet": table(column, [row % len(names) for row in range(size)], names)
        for split, size in SIZES.items()
    }


def card(*configs: str) -> bytes:
    """The head of a data set's card, which says where the files of its configurations are."""
    entries = [
        {"config_name": one, "data_files": [{"split": split, "path": f"{one}/{split}-*"} for split in SIZES]}
        for one in configs
    ]
    return f"---\n{yaml.safe_dump({'configs': entries})}---\n".encode()


def repositories() -> dict[str, dict[str, bytes]]:
    categories = [["dog", "rain"][row % 2] for row in range(20)]
    folds = {"fold": [1 + row // 4 for row in range(20)], "target": [row % 2 for row in range(20)]}
    genres = {split: [["blues", "rock"][row % 2] for row in range(size)] for split, size in SIZES.items()}
    return {
        "ashraq/esc50": {"data/train-00000-of-00001.parquet": table("category", categories, **folds)},
        "confit/gtzan": {
            f"data/{one}-00000-of-00001.parquet": table("genre", labels) for one, labels in genres.items()
        },
        "Hunzla/simplified_google_speech_commands_wav2vec2_960h": {
            f"data/{split}-00000-of-00001.parquet": table("label", list(range(12)), WORDS, speaker_id=["a"] * 12)
            for split in SIZES
        },
        "confit/nsynth-parquet": {"README.md": card("pitch", "instrument")}
        | in_splits("pitch", "label", ["60", "72"])
        | in_splits("instrument", "label", ["bass", "flute"]),
    }


@pytest.mark.slow
def test_recipes_run_by_the_names_of_the_hub(tmp_path: Path) -> None:
    with HubServer() as hub:
        for name, files in repositories().items():
            hub.add(name, files, repo_type="dataset")
        environment = os.environ | hub.environment(tmp_path / "home")
        environment["HF_DATASETS_CACHE"] = str(tmp_path / "cache")
        command = [sys.executable, "-c", RUN, str(ROOT), TINY, str(tmp_path), *TESTED]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]
        assert hub.unhandled == []
    for recipe, count in TESTED.items():
        (model,) = json.loads((tmp_path / recipe / "results.json").read_text())["models"]
        (scores,) = model["scores"]
        assert (scores["protocol"], scores["metric"]) == ("linear", "accuracy")
        assert scores["trials"] == (5 if recipe == "esc50" else 1)
        matrix = np.array(model["confusion"]["linear"])
        assert matrix.sum() == count, recipe
        if recipe != "speech_commands_v2":  # whose labels say nothing of the tones
            assert scores["mean"] == pytest.approx(np.trace(matrix) / count) and scores["mean"] > 0.7


def test_every_recipe_names_its_data_and_test_clips() -> None:
    files = {file.stem: yaml.safe_load(file.read_text()) for file in RECIPES.glob("*.yaml")}
    assert set(files) == {*TESTED, "fsd50k"}
    for name, flags in files.items():
        assert flags["protocol"] == "linear" and "fold_column" in flags and "label_column" in flags
        assert ("dataset_name" in flags) == (name != "fsd50k")
        assert flags.get("test_folds") == (None if name == "esc50" else "test")
        assert (RECIPES / f"{name}.yaml").read_text().startswith("# ")  # where split and metric are from


def test_fsd50k_is_measured_as_scikit_learn_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips with several labels, in the folders and tables of the original."""
    sets = ["Dog", "Dog,Rain", "Rain", "Wind"]
    folder = tmp_path / "FSD50K"
    (folder / "labels").mkdir(parents=True)
    for part, first, count in (("dev", 0, 24), ("eval", 24, 12)):
        (folder / "clips" / part).mkdir(parents=True)
        rows = pd.DataFrame({"fname": range(first, first + count)})
        rows["labels"] = [sets[number % 4] for number in rows["fname"]]
        rows["mids"] = "/m/0"
        for number in rows["fname"]:
            soundfile.write(folder / "clips" / part / f"{number}.wav", sound(number), 16_000)
        if part == "dev":
            rows["split"] = ["val" if number % 5 == 0 else "train" for number in rows["fname"]]
        rows.to_csv(folder / "labels" / f"{part}.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fsd50k_metadata.py", "FSD50K"])
    runpy.run_path(str(RECIPES / "fsd50k_metadata.py"), run_name="__main__")
    arguments = ["--config", str(RECIPES / "fsd50k.yaml"), "--model_name_or_path", TINY, "--output_dir", "results"]
    monkeypatch.setattr(sys, "argv", ["examples/few_shot.py", *arguments])
    runpy.run_path(str(ROOT / "examples" / "few_shot.py"), run_name="__main__")
    (scores,) = json.loads(Path("results/results.json").read_text())["models"][0]["scores"]
    assert (scores["metric"], scores["trials"]) == ("average_precision", 1)
    metadata = pd.read_csv(folder / "metadata.csv")
    vectors = AudioEmbedder.from_pretrained(TINY).encode([str(folder / name) for name in metadata["file_name"]])
    test = (metadata["split"] == "test").to_numpy()
    expected = []
    for label in ("Dog", "Rain", "Wind"):
        has = np.array([label in labels.split(",") for labels in metadata["labels"]])
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(vectors[~test], has[~test])
        expected.append(average_precision_score(has[test], probe.decision_function(vectors[test])))
    assert scores["mean"] == pytest.approx(np.mean(expected), abs=1e-6)
