"""The checkpoints that come with the project are small, complete, and what their cards say."""

import filecmp
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from transformers import AutoFeatureExtractor, AutoModel, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from travelling import AUDIO_MAE_CODE

from uamix_hf import AudioEmbedder, AudioMAEModel

ROOT = Path(__file__).parents[1]
MEGABYTES = {"audio-mae-tiny": 12, "audio-mae-mini": 25, "uamix-mae-tiny": 12}
FOLDERS = [ROOT / "model_cards" / name for name in MEGABYTES]
MINI = ROOT / "model_cards" / "audio-mae-mini"
SMALLEST = [folder for folder in FOLDERS if folder != MINI]
WHISPER = ROOT / "model_cards" / "uamix-whisper-tiny.en"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_checkpoint_is_a_small_encoder_alone(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1e6 * MEGABYTES[folder.name]
    assert {path.suffix for path in folder.iterdir()} == {".json", ".md", ".py", ".safetensors"}
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert not any("decoder" in name or "classifier" in name for name in file.keys())  # noqa: SIM118
    model, loading = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, AudioMAEModel) and not loading["missing_keys"] and not loading["unexpected_keys"]
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_its_code_is_the_packages_and_its_card_complete(folder: Path) -> None:
    assert {file.name for file in folder.glob("*.py")} == AUDIO_MAE_CODE
    for name in AUDIO_MAE_CODE:
        assert not (folder / name).is_symlink(), f"{name} would point to nowhere in a copy of the folder"
        assert filecmp.cmp(folder / name, ROOT / "uamix_hf" / "models" / "audio_mae" / name, shallow=False), (
            f"{name} is out of date: make code"
        )
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "cc-by-sa-4.0" and card.data.library_name == "transformers"
    assert len(card.data.eval_results) == 8 and all(0 < one.metric_value < 100 for one in card.data.eval_results)
    for word in ("ESC-10", "Free Spoken Digit", "Speech Commands", "CC BY-SA 4.0", "seed", "hours", "±"):
        assert word in card.text, word
    assert "{{" not in card.text and "/tmp" not in card.text


def test_whispers_encoder_is_alone_in_half_precision_and_loads_without_this_package() -> None:
    assert sum(path.stat().st_size for path in WHISPER.iterdir()) <= 20e6
    assert {path.suffix for path in WHISPER.iterdir()} == {".json", ".md", ".safetensors"}
    with safe_open(WHISPER / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    model, loading = WhisperEncoder.from_pretrained(WHISPER, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert isinstance(AutoFeatureExtractor.from_pretrained(WHISPER), WhisperFeatureExtractor)


@pytest.mark.parametrize("folder", [MINI, WHISPER], ids=lambda folder: folder.name)
def test_a_card_names_all_open_audio_that_its_encoder_was_trained_on(folder: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    settings, words = (
        json.loads((ROOT / "reproduction" / name).read_text(encoding="utf-8"))
        for name in ("whisper.json", "words.json")
    )
    folders = [row.partition(":")[0] for row in settings["training"]["open"]]
    assert len(folders) == 15 and all(words["data"][folder] in card.text for folder in folders)


def test_a_short_clip_is_resampled_by_the_encoder_that_was_chosen_so() -> None:
    extractor = AutoFeatureExtractor.from_pretrained(MINI)
    model = AutoModel.from_pretrained(MINI)
    wave = np.random.default_rng(0).standard_normal(8800).astype(np.float32) / 10
    inputs = extractor(wave, sampling_rate=16_000, return_tensors="pt")
    assert inputs["attention_mask"].sum() == 48  # of 53 frames, three patches
    with torch.no_grad():
        assert model(**inputs).pooler_output.shape == (1, 2 * 8 * 256)  # mean and standard deviation of eight bands


def test_whispers_card_names_its_licence() -> None:
    card = ModelCard.load(WHISPER / "README.md")
    assert card.data.license == "cc-by-sa-4.0" and card.data.base_model == "openai/whisper-tiny.en"
    assert len(card.data.eval_results) == 8 and all(0 < one.metric_value < 100 for one in card.data.eval_results)
    for word in ("MIT License", "Copyright (c) 2022 OpenAI", "transcripts", "16 kHz", "seed", "±"):
        assert word in card.text, word
    assert "{{" not in card.text and "/tmp" not in card.text and "/work" not in card.text


@pytest.mark.parametrize(
    "folder",
    [*SMALLEST, *(pytest.param(folder, marks=pytest.mark.slow) for folder in (MINI, WHISPER))],
    ids=lambda folder: folder.name,
)
def test_it_tells_real_sounds_apart(folder: Path, esc10: Path) -> None:
    """Rows of fold 5, which it has not seen: the nearest other clip often has the same label."""
    from uamix_hf.data import column_as_text, load_recordings

    recordings = load_recordings(str(esc10), where=["fold=5"])
    vectors = AudioEmbedder.from_pretrained(str(folder)).encode(recordings["audio"][:], progress_bar=False)
    labels, sources = (np.array(column_as_text(recordings, name)) for name in ("label", "src_file"))
    unit = vectors - vectors.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similarity = unit @ unit.T
    similarity[sources[:, None] == sources] = -1
    assert (labels[similarity.argmax(axis=1)] == labels).mean() > 0.25  # chance is 0.1
