"""Whatever is opened, nothing that was planted in it runs; each planted file is shown to be as bad as it should be."""

import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from toy_sounds import CONFIG, EXTRACTOR, log_mels, tones
from transformers import AutoModel, set_seed

from uamix_hf import (
    AudioEmbedder,
    AudioMAEForAudioClassification,
    AudioMAEModel,
    UaMixForContrastiveTuning,
    UaMixTrainingArguments,
)
from uamix_hf.data import cached_features, load_recordings
from uamix_hf.evaluation import cached_embeddings
from uamix_hf.hub.export import export_encoder
from uamix_hf.models.checkpoint import CheckpointError, read_checkpoint
from uamix_hf.models.conversion import convert
from uamix_hf.tuning import StageTrainer

pytestmark = [  # of torch, about files that are bad or old on purpose
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),
    pytest.mark.filterwarnings("ignore:.*torch.jit"),
]


class Malice:
    """Unpickling this makes a file."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    """What exists as soon as something planted has run."""
    return tmp_path / "witness"


def plant(file: Path, witness: Path, content: dict | None = None) -> None:
    torch.save({"planted": Malice(witness)} | (content or {}), file)
    torch.load(file, weights_only=False)
    witness.rmdir()  # raises if loading it carelessly does not run it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved encoder."""
    set_seed(0)
    AudioMAEModel(CONFIG).save_pretrained(tmp_path / "model")
    EXTRACTOR.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# --- weights


@pytest.mark.parametrize("name", ["pytorch_model.bin", "shards"])
def test_models_are_not_loaded_from_a_malicious_pickle(
    folder: Path, sounds: Path, tmp_path: Path, witness: Path, name: str
) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if name == "shards":
        plant(folder / "part-1.bin", witness, tensors)
        shards = ", ".join(f'"{key}": "part-1.bin"' for key in tensors)
        (folder / "pytorch_model.bin.index.json").write_text(f'{{"metadata": {{}}, "weight_map": {{{shards}}}}}')
    else:
        plant(folder / name, witness, tensors)
    recordings = load_recordings(sounds)
    loaders = {
        "AutoModel": AutoModel.from_pretrained,
        "AudioMAEModel": AudioMAEModel.from_pretrained,
        "classifier": AudioMAEForAudioClassification.from_pretrained,
        "AudioEmbedder": AudioEmbedder.from_pretrained,
        "cached_embeddings": lambda path: cached_embeddings(path, recordings, tmp_path / "cache", progress_bar=False),
        "export_encoder": lambda path: export_encoder(path, tmp_path / "exported"),
    }
    for loader, load in loaders.items():
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            load(str(folder))
        assert not witness.exists(), loader


def test_a_pickle_beside_safetensors_is_not_even_opened(folder: Path, sounds: Path, witness: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"):
        plant(folder / name, witness)
    clips = [str(path) for path in sounds.iterdir()]
    assert AudioEmbedder.from_pretrained(str(folder)).encode(clips, progress_bar=False).shape == (4, 32)
    with pytest.raises(CheckpointError, match="not a layout of Audio-MAE"):  # it read model.safetensors
        convert("audiomae", str(folder), str(folder.parent / "target"))
    assert not witness.exists()


@pytest.mark.parametrize("kind", ["TorchScript", "old tar"])
def test_older_containers_of_torch_are_refused_by_the_converter(tmp_path: Path, witness: Path, kind: str) -> None:
    """A TorchScript archive is a program; the reader of the tar files of torch 0.1 knew no `weights_only`."""
    file = tmp_path / "m.pth"
    if kind == "TorchScript":
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), file)
    else:
        planted = pickle.dumps(Malice(witness))
        with tarfile.open(file, "w") as tar:
            for name in ("sys_info", "storages", "tensors", "pickle"):
                member = tarfile.TarInfo(name)
                member.size = len(planted)
                tar.addfile(member, io.BytesIO(planted))
        pickle.loads(planted)
        witness.rmdir()
    with pytest.raises(CheckpointError, match=r"m\.pth"):
        read_checkpoint(file)
    assert not witness.exists()


# --- going on from a checkpoint


def make_trainer(output: Path) -> StageTrainer:
    set_seed(0)
    sizes = {"projector_hidden_size": 24, "projection_size": 16, "predictor_hidden_size": 32, "queue_size": 4}
    model = UaMixForContrastiveTuning.from_encoder(AudioMAEModel(CONFIG), topk=1, **sizes)
    args = UaMixTrainingArguments(
        str(output), max_steps=2, head_steps=0, per_device_train_batch_size=4, save_steps=1, use_cpu=True,
        report_to="none", disable_tqdm=True, recipe="plastic",
    )  # fmt: skip
    return StageTrainer(model, args, log_mels(tones(8)[0]), EXTRACTOR)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    make_trainer(output).train()
    return output / "checkpoint-1"


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"])
def test_resuming_runs_nothing_that_was_planted(checkpoint: Path, tmp_path: Path, witness: Path, name: str) -> None:
    planted = tmp_path / "checkpoint-1"
    shutil.copytree(checkpoint, planted)
    assert (planted / name).is_file() or name == "pytorch_model.bin"
    if name == "pytorch_model.bin":
        (planted / "model.safetensors").unlink()
    plant(planted / name, witness)
    errors = (pickle.UnpicklingError, OSError)
    with pytest.raises(errors, match="Weights only load failed|cannot be resumed from"):
        make_trainer(tmp_path / "out").train(resume_from_checkpoint=str(planted))
    assert not witness.exists()


def test_training_arguments_of_a_checkpoint_are_never_read(checkpoint: Path, tmp_path: Path, witness: Path) -> None:
    """They are a pickle by design; resuming takes its arguments from whoever resumes."""
    planted = tmp_path / "checkpoint-1"
    shutil.copytree(checkpoint, planted)
    plant(planted / "training_args.bin", witness)
    trainer = make_trainer(tmp_path / "out")
    trainer.train(resume_from_checkpoint=str(planted))
    assert trainer.state.global_step == 2 and not witness.exists()


# --- caches


def test_the_cache_of_embeddings_unpickles_nothing(folder: Path, sounds: Path, tmp_path: Path, witness: Path) -> None:
    recordings, cache = load_recordings(sounds), tmp_path / "cache"
    first = cached_embeddings(folder, recordings, cache, progress_bar=False)
    (file,) = cache.iterdir()
    np.save(file, np.array([Malice(witness)], dtype=object), allow_pickle=True)
    np.load(file, allow_pickle=True)
    witness.rmdir()
    np.testing.assert_array_equal(cached_embeddings(folder, recordings, cache, progress_bar=False), first)
    assert not witness.exists() and np.load(file).dtype == np.float32


def test_the_cache_of_log_mels_unpickles_nothing(sounds: Path, tmp_path: Path, witness: Path) -> None:
    """Arrow files could once carry a type as a pickle, `arrow.py_extension_type`, which was run on opening them."""
    recordings, cache = load_recordings(sounds), tmp_path / "cache"
    expected = cached_features(recordings, EXTRACTOR, cache_dir=cache).dataset[:]
    (file,) = cache.rglob("*.arrow")
    with pa.OSFile(str(file)) as source:
        table = pa.ipc.open_stream(source).read_all()
    column = table.schema.get_field_index("warnings")
    metadata = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Malice(witness)),
    }
    schema = table.schema.set(column, table.schema.field(column).with_metadata(metadata))
    file.chmod(0o644)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table.cast(schema))
    assert b"py_extension_type" in file.read_bytes()
    actual = cached_features(recordings, EXTRACTOR, cache_dir=cache).dataset[:]
    assert torch.equal(actual["length"], expected["length"]) and not witness.exists()
    assert b"py_extension_type" in file.read_bytes()  # it was read, not made again
