"""Code that comes with a model or a dataset runs for nobody who has not asked for it."""

import json
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
from toy_sounds import CONFIG, EXTRACTOR
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from uamix_hf import AudioEmbedder, AudioMAEModel
from uamix_hf.data import load_recordings
from uamix_hf.evaluation import cached_embeddings
from uamix_hf.hub.export import export_encoder

ROOT = Path(__file__).parents[2]
CLASSES = {"AutoConfig": "Config", "AutoModel": "Model", "AutoFeatureExtractor": "Extractor"}


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    return tmp_path / "witness"


def plant(file: Path, witness: Path) -> None:
    file.write_text(f"import os\nos.mkdir({str(witness)!r})\n")
    runpy.run_path(str(file))
    witness.rmdir()  # raises if the file is not as bad as it should be


def repository(folder: Path, witness: Path, model_type: str) -> Path:
    """A saved encoder whose configuration asks for code that lies beside it."""
    AudioMAEModel(CONFIG).save_pretrained(folder)
    EXTRACTOR.save_pretrained(folder)
    for name in ("config.json", "preprocessor_config.json"):
        content = json.loads((folder / name).read_text())
        content |= {"auto_map": {auto: f"planted.{kind}" for auto, kind in CLASSES.items()}}
        content |= {"model_type": model_type} if name == "config.json" else {"feature_extractor_type": "Extractor"}
        (folder / name).write_text(json.dumps(content))
    plant(folder / "planted.py", witness)
    return folder


def test_a_foreign_model_with_code_of_its_own_is_refused(tmp_path: Path, sounds: Path, witness: Path) -> None:
    folder = repository(tmp_path / "model", witness, "planted")
    recordings = load_recordings(sounds)
    loaders = {
        "AutoConfig": AutoConfig.from_pretrained,
        "AutoModel": AutoModel.from_pretrained,
        "AutoFeatureExtractor": AutoFeatureExtractor.from_pretrained,
        "AudioEmbedder": AudioEmbedder.from_pretrained,
        "cached_embeddings": lambda path: cached_embeddings(path, recordings, tmp_path / "cache"),
        "export_encoder": lambda path: export_encoder(path, tmp_path / "exported"),
    }
    for loader, load in loaders.items():
        with pytest.raises(ValueError, match="trust_remote_code"):
            load(str(folder))
        assert not witness.exists(), loader


@pytest.mark.parametrize("script", ["tune", "few_shot", "embed"])
def test_the_examples_ask_for_no_code(tmp_path: Path, sounds: Path, witness: Path, monkeypatch, script: str) -> None:
    folder = repository(tmp_path / "model", witness, "planted")
    rows = [f"{number:02d}.wav,{'ab'[number % 2]}\n" for number in range(4)]
    (sounds / "metadata.csv").write_text("file_name,label\n" + "".join(rows))
    flags = {
        "tune": ["--train_dir", sounds, "--output_dir", tmp_path / "out", "--use_cpu", "--report_to", "none"],
        "few_shot": ["--data_dir", sounds, "--output_dir", tmp_path / "out", "--protocol", "knn"],
        "embed": ["--data_dir", sounds, "--output_file", tmp_path / "vectors.npz"],
    }[script]
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--model_name_or_path", str(folder), *map(str, flags)])
    with pytest.raises(ValueError, match="trust_remote_code"):
        runpy.run_path(str(ROOT / "examples" / f"{script}.py"), run_name="__main__")
    assert not witness.exists()


def test_code_beside_an_encoder_of_ours_is_left_alone(tmp_path: Path, sounds: Path, witness: Path) -> None:
    folder = repository(tmp_path / "model", witness, "audio_mae")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    config |= {"feature_extractor_type": "AudioMAEFeatureExtractor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    clips = [str(path) for path in sounds.iterdir()]
    embedder = AudioEmbedder.from_pretrained(str(folder))
    assert type(embedder.model) is AudioMAEModel and not witness.exists()
    assert embedder.encode(clips, progress_bar=False).shape == (4, CONFIG.hidden_size)


def test_a_configuration_cannot_fetch_attention_code_from_the_hub(tmp_path: Path, witness: Path) -> None:
    folder = repository(tmp_path / "model", witness, "audio_mae")
    config = json.loads((folder / "config.json").read_text())
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        (folder / "config.json").write_text(json.dumps(config | {key: "stranger/attention"}))
        try:
            model = AutoModel.from_pretrained(folder)
        except (ImportError, OSError, ValueError):
            continue
        assert model.config._attn_implementation in ("sdpa", "eager"), key


def test_scripts_and_pickles_of_a_dataset_do_not_run(tmp_path: Path, witness: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    plant(folder / "clips.py", witness)
    with pytest.raises(RuntimeError, match="scripts are no longer supported"):
        load_recordings(dataset_name=str(folder))
    assert not witness.exists()
    (folder / "clips.py").unlink()
    pd.DataFrame({"audio": [1]}).to_pickle(folder / "train.pkl")
    with pytest.raises(FileNotFoundError):  # no format that it reads
        load_recordings(dataset_name=str(folder))
