"""Embeddings are made once: the cache follows weights and recordings, and a broken file is made again."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from hub_server import HubServer

from uamix_hf import AudioEmbedder, AudioInputError, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.data import load_recordings
from uamix_hf.evaluation import cached_embeddings


@pytest.fixture
def sounds(tmp_path: Path) -> Dataset:
    folder, rng = tmp_path / "sounds", np.random.default_rng(0)
    folder.mkdir()
    for number, seconds in enumerate((0.5, 1.0, 0.3)):
        soundfile.write(folder / f"{number}.wav", rng.uniform(-0.5, 0.5, int(16_000 * seconds)), 16_000)
    return load_recordings(folder)


def save_model(folder: Path, config: AudioMAEConfig, seed: int) -> Path:
    torch.manual_seed(seed)
    AudioMAEModel(config).save_pretrained(folder)
    AudioMAEFeatureExtractor(max_length=config.max_length, mean=-5.0, std=3.0).save_pretrained(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path, tiny_config: AudioMAEConfig) -> Path:
    return save_model(tmp_path / "model", tiny_config, seed=0)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of recordings of every call that a model answers."""
    calls: list[int] = []
    encode = AudioEmbedder.encode

    def counted(self, inputs, *arguments, **settings):
        calls.append(len(inputs))
        return encode(self, inputs, *arguments, **settings)

    monkeypatch.setattr(AudioEmbedder, "encode", counted)
    return calls


def embed(model: Path, sounds: Dataset, cache: Path) -> np.ndarray:
    return cached_embeddings(model, sounds, cache, progress_bar=False)


def test_a_second_call_reads_the_file(model: Path, sounds: Dataset, tmp_path: Path, runs: list[int]) -> None:
    cache = tmp_path / "deep" / "cache"
    first = embed(model, sounds, cache)
    assert runs == [3]
    np.testing.assert_array_equal(first, AudioEmbedder.from_pretrained(str(model)).encode(sounds["audio"][:]))
    assert first.dtype == np.float32 and first.shape == (3, 48)
    runs.clear()
    (model / "trainer_state.json").write_text("{}")  # a run's leavings do not change a model
    np.testing.assert_array_equal(embed(str(model), sounds, str(cache)), first)
    assert runs == []
    assert [file.suffix for file in cache.iterdir()] == [".npy"]


def test_other_weights_recordings_or_preprocessing_are_embedded(
    model: Path, sounds: Dataset, tmp_path: Path, tiny_config: AudioMAEConfig, runs: list[int]
) -> None:
    cache = tmp_path / "cache"
    first = embed(model, sounds, cache)
    part = embed(model, sounds.select([2, 0]), cache)
    np.testing.assert_allclose(part, first[[2, 0]], atol=1e-5)
    save_model(model, tiny_config, seed=1)
    assert np.abs(embed(model, sounds, cache) - first).max() > 0.1
    AudioMAEFeatureExtractor(max_length=tiny_config.max_length, mean=-2.0, std=3.0).save_pretrained(model)
    louder = embed(model, sounds, cache)
    path = sounds[1]["audio"]["path"]
    soundfile.write(path, np.random.default_rng(1).uniform(-0.5, 0.5, 16_000), 16_000)  # of the same size
    changed = embed(model, sounds, cache)
    np.testing.assert_allclose(changed[[0, 2]], louder[[0, 2]], atol=1e-5)
    assert np.abs(changed[1] - louder[1]).max() > 1e-3
    assert runs == [3, 2, 3, 3, 3] and len(list(cache.iterdir())) == 5


@pytest.mark.parametrize("length", [0, 20, 200, -1])
def test_a_truncated_file_is_made_again(
    model: Path, sounds: Dataset, tmp_path: Path, runs: list[int], caplog: pytest.LogCaptureFixture, length: int
) -> None:
    first = embed(model, sounds, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:length])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(embed(model, sounds, tmp_path / "cache"), first)
    assert [file.name in record.getMessage() for record in caplog.records] == [True]
    assert runs == [3, 3] and file.read_bytes() == whole


def test_a_file_of_other_content_is_made_again(
    model: Path, sounds: Dataset, tmp_path: Path, runs: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    first = embed(model, sounds, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    for content in (first[:2], first.astype(np.float64), np.array([{"a": 1}], dtype=object)):
        np.save(file, content, allow_pickle=True)
        np.testing.assert_array_equal(embed(model, sounds, tmp_path / "cache"), first)
    assert len(caplog.records) == 3 and runs == [3] * 4


def test_a_failure_leaves_no_file(model: Path, sounds: Dataset, tmp_path: Path, monkeypatch) -> None:
    cache = tmp_path / "cache"

    def full_disk(*arguments: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full_disk)
        with pytest.raises(OSError, match="No space"):
            embed(model, sounds, cache)
    assert list(cache.iterdir()) == []
    path = Path(sounds[1]["audio"]["path"])
    path.write_bytes(b"no sound")
    with pytest.raises(AudioInputError, match=path.name):
        embed(model, sounds, cache)
    assert list(cache.iterdir()) == []


HUB = """
import os, sys
import numpy as np
from huggingface_hub import HfApi
from uamix_hf import AudioEmbedder
from uamix_hf.data import load_recordings
from uamix_hf.evaluation import cached_embeddings
from uamix_hf.training import EncoderArguments

folders, sounds, cache = sys.argv[1:3], load_recordings(sys.argv[3]), sys.argv[4]
api, loaded = HfApi(), []
load_embedder = EncoderArguments.load_embedder


def counted(source):
    loaded.append(source.model_revision)
    return load_embedder(source)


EncoderArguments.load_embedder = counted
api.create_repo("user/encoder")
for number, folder in enumerate(folders, 1):
    api.upload_folder(repo_id="user/encoder", folder_path=folder)
    for _ in range(2):
        vectors = cached_embeddings("user/encoder", sounds, cache, progress_bar=False)
        assert loaded[-1] == api.model_info("user/encoder").sha and len(loaded) == number, loaded
    np.testing.assert_array_equal(vectors, AudioEmbedder.from_pretrained(folder).encode(sounds["audio"][:]))
try:
    cached_embeddings("user/absent", sounds, cache)
except OSError as error:
    assert "user/absent" in str(error)
else:
    raise AssertionError("embedded by a model that does not exist")
"""


@pytest.mark.slow
def test_a_repository_is_known_by_its_commit(
    sounds: Dataset, model: Path, tmp_path: Path, tiny_config: AudioMAEConfig
) -> None:
    other = save_model(tmp_path / "other", tiny_config, seed=1)
    with HubServer() as hub:
        environment = os.environ | hub.environment(tmp_path / "home")
        folders = [str(model), str(other), str(tmp_path / "sounds"), str(tmp_path / "cache")]
        process = subprocess.run(
            [sys.executable, "-c", HUB, *folders], env=environment, capture_output=True, text=True, timeout=300
        )
        assert process.returncode == 0, process.stderr
        assert hub.unhandled == []
        environment["HF_HUB_OFFLINE"] = "1"  # without a connection the commit that was loaded last serves
        offline = "import sys; from uamix_hf.data import load_recordings; from uamix_hf import AudioEmbedder\n"
        offline += "from uamix_hf.evaluation import cached_embeddings; AudioEmbedder.from_pretrained = None\n"
        offline += "cached_embeddings('user/encoder', load_recordings(sys.argv[1]), sys.argv[2])"
        command = [sys.executable, "-c", offline, *folders[2:]]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr
