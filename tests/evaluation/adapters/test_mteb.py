"""mteb's own tasks run on local clips with an encoder of a folder, and write results in mteb's format."""

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset, DatasetDict
from encoder_checks import scramble
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

CACHE = tempfile.TemporaryDirectory()  # mteb makes its own when it is imported, in the user's home
os.environ.setdefault("MTEB_CACHE", CACHE.name)

import mteb  # noqa: E402
from mteb.mocks.mock_tasks import MockAny2AnyRetrievalA2ATask  # noqa: E402

from uamix_hf import AudioEmbedder  # noqa: E402
from uamix_hf.embedding import EncoderError  # noqa: E402
from uamix_hf.evaluation.adapters.mteb import MtebEncoder  # noqa: E402

TINY = str(Path(__file__).parents[3] / "model_cards" / "audio-mae-tiny")
CLASSES, CLIPS, RATE = 4, 10, 22_050
LABELS = ["This is a sound of dog", "This is a sound of rooster"]  # the first of ESC50_Zeroshot's


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Tones with noise, half a second each, at a rate that is not the encoder's; a class has a pitch."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    paths = []
    for number in range(CLASSES * CLIPS):
        pitch = 300 * 2 ** (number % CLASSES) * rng.uniform(0.97, 1.03)
        tone = np.sin(2 * np.pi * pitch * np.arange(RATE // 2) / RATE)
        paths.append(str(folder / f"{number}.flac"))
        soundfile.write(paths[-1], 0.3 * tone + 0.02 * rng.standard_normal(RATE // 2), RATE)
    return paths


def clips(files: list[str], **columns: list[Any]) -> Dataset:
    return Dataset.from_dict({"audio": files, **columns}).cast_column("audio", Audio())


def local_task(name: str, files: list[str]) -> Any:
    """A task of mteb on these clips instead of its data set."""
    task = mteb.get_task(name)
    task.dataset = DatasetDict(train=clips(files, target=[number % CLASSES for number in range(len(files))]))
    task.data_loaded = True
    return task


@pytest.fixture(scope="module")
def model() -> MtebEncoder:
    return MtebEncoder(TINY, device="cpu")


def test_tasks_run_offline_and_write_results_of_mteb(model: MtebEncoder, files: list[str], tmp_path: Path) -> None:
    tasks = [local_task("ESC50", files), local_task("ESC50Clustering", files)]
    cache = mteb.ResultCache(tmp_path)
    mteb.evaluate(model, tasks, cache=cache, show_progress_bar=False)
    folder = tmp_path / "results" / "local__audio-mae-tiny" / model.mteb_model_meta.revision
    scores = {}
    for name in ("ESC50", "ESC50Clustering"):
        written = json.loads((folder / f"{name}.json").read_text())
        assert written["task_name"] == name and written["mteb_version"] == mteb.__version__
        loaded = mteb.TaskResult.from_disk(folder / f"{name}.json")
        scores[name] = loaded.get_score()
        assert scores[name] == written["scores"]["train"][0]["main_score"]
    assert scores["ESC50"] > 0.9 and scores["ESC50Clustering"] > 0.5, scores  # chance is 0.25 and 0


def test_rows_have_the_embeddings_of_the_embedder(model: MtebEncoder, files: list[str]) -> None:
    expected = AudioEmbedder.from_pretrained(TINY, device="cpu").encode(files, progress_bar=False)
    loader = torch.utils.data.DataLoader(clips(files), batch_size=3)
    task = mteb.get_task("ESC50").metadata
    found = model.encode(
        loader, task_metadata=task, hf_split="train", hf_subset="default", batch_size=7, show_progress_bar=False
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(TypeError, match="no argument precision"):
        model.encode(loader, task_metadata=task, hf_split="train", hf_subset="default", precision="int8")


class LocalRetrieval(MockAny2AnyRetrievalA2ATask):
    """Each clip of the first half looks for those of its class in the second."""

    files: list[str]

    def load_data(self, **kwargs: Any) -> None:
        half = len(self.files) // 2
        names = {
            "queries": [f"q{number}" for number in range(half)],
            "corpus": [f"d{number}" for number in range(half)],
        }
        for start, (part, ids) in zip((0, half), names.items(), strict=True):
            rows = clips(self.files[start : start + half], id=ids, modality=["audio"] * half)
            setattr(self, part, DatasetDict(test=rows))
        self.relevant_docs = {
            "test": {
                query: {name: int((place - other) % CLASSES == 0) for other, name in enumerate(names["corpus"])}
                for place, query in enumerate(names["queries"])
            }
        }
        self.data_loaded = True


def test_audio_retrieves_audio(model: MtebEncoder, files: list[str], tmp_path: Path) -> None:
    task = LocalRetrieval()
    task.files = files[: 2 * CLASSES * 4]
    results = mteb.evaluate(model, task, cache=mteb.ResultCache(tmp_path), show_progress_bar=False)
    vectors = AudioEmbedder.from_pretrained(TINY, device="cpu").encode(task.files, progress_bar=False)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    half = len(task.files) // 2
    nearest = (unit[:half] @ unit[half:].T).argmax(axis=1)
    hits = np.mean((nearest - np.arange(half)) % CLASSES == 0)
    scores = results.task_results[0].scores["test"][0]
    assert scores["hit_rate_at_1"] == pytest.approx(hits, abs=1e-4) and hits > 0.5


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ClapModel, Any]:
    """A whole CLAP with random weights and a tokenizer of words."""
    folder = tmp_path_factory.mktemp("clap")
    audio = {
        "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 2], "hidden_size": 16,
        "num_hidden_layers": 2, "patch_size": 8, "patch_stride": [8, 8], "aff_block_r": 2, "projection_dim": 12,
    }  # fmt: skip
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", *" ".join(LABELS).split()])}
    vocabulary = {word: place for place, word in enumerate(vocabulary)}
    config = ClapConfig(audio_config=audio, text_config=text | {"vocab_size": 30, "pad_token_id": 0}, projection_dim=12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = ClapModel(config)
    scramble(whole)
    whole.eval().save_pretrained(folder)
    words = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder)
    ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    return folder, whole, tokenizer


def test_clap_classifies_without_training_as_transformers_does(clap: Any, files: list[str], tmp_path: Path) -> None:
    folder, whole, tokenizer = clap
    task = local_task("ESC50_Zeroshot", files[:8])
    task.dataset = DatasetDict(train=clips(files[:8], target=[0, 1] * 4))
    task.get_candidate_labels = lambda: LABELS
    model = MtebEncoder(str(folder), device="cpu", pooling="projection")
    assert model.mteb_model_meta.modalities == ["audio", "text"] and model.mteb_model_meta.embed_dim == 12
    results = mteb.evaluate(model, task, cache=mteb.ResultCache(tmp_path), show_progress_bar=False)
    with torch.inference_mode():
        text = whole.get_text_features(**tokenizer(LABELS, padding=True, return_tensors="pt")).pooler_output
    embedder = AudioEmbedder.from_pretrained(str(folder), device="cpu", pooling="projection")
    audio = torch.from_numpy(embedder.encode(files[:8], progress_bar=False))
    chosen = (torch.nn.functional.normalize(audio, dim=1) @ text.T).argmax(dim=1)
    expected = (chosen == torch.tensor([0, 1] * 4)).float().mean().item()
    assert results.task_results[0].get_score() == pytest.approx(expected)
    loader = torch.utils.data.DataLoader(Dataset.from_dict({"text": LABELS}))
    found = model.encode(
        loader, task_metadata=task.metadata, hf_split="train", hf_subset="default", show_progress_bar=False
    )
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(found, text.numpy(), atol=1e-5)


def test_text_for_an_encoder_of_audio_alone_is_an_error(model: MtebEncoder, clap: Any, files: list[str]) -> None:
    loader = torch.utils.data.DataLoader(Dataset.from_dict({"text": ["a dog"]}))
    task = mteb.get_task("ESC50_Zeroshot")
    with pytest.raises(EncoderError, match=r"ESC50_Zeroshot has rows of text, and local/audio-mae-tiny embeds audio"):
        model.encode(loader, task_metadata=task.metadata, hf_split="train", hf_subset="default")
    with pytest.raises(ValueError, match="text"):  # mteb's own check of modalities
        mteb.evaluate(model, local_task("ESC50_Zeroshot", files), cache=None)
    assert MtebEncoder(str(clap[0])).modalities == ["audio"]  # its mean over tokens is not the space of text


def test_an_encoder_that_changed_has_results_of_its_own(model: MtebEncoder, tmp_path: Path) -> None:
    revision = model.mteb_model_meta.revision
    assert MtebEncoder(TINY).mteb_model_meta.revision == revision
    assert MtebEncoder(TINY, embedding_layer=3).mteb_model_meta.revision != revision
    assert MtebEncoder(TINY, max_length=512).mteb_model_meta.revision != revision
    shutil.copytree(TINY, tmp_path / "audio-mae-tiny")
    embedder = AudioEmbedder.from_pretrained(TINY)
    embedder.model.layernorm.weight.data[0] += 0.1
    embedder.save_pretrained(tmp_path / "audio-mae-tiny")
    changed = MtebEncoder(str(tmp_path / "audio-mae-tiny"), meta={"training_datasets": {"ESC50"}}).mteb_model_meta
    assert changed.revision != revision and changed.name == model.mteb_model_meta.name
    assert changed.training_datasets == {"ESC50"}


def test_without_mteb_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("uamix_hf.evaluation.adapters.mteb")
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(ImportError, match=r"needs mteb 2\.26: pip install 'uamix_hf\[benchmarks\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
