"""Real recordings by encoders of waveforms: cached, in windows, at other rates, by remote code, and evaluated."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import as_published, make_encoder
from datasets import Dataset
from toy_sounds import tones, write_tones
from transformers import HubertConfig, PreTrainedModel, Wav2Vec2FeatureExtractor

from uamix_hf import AudioEmbedder, load_audio
from uamix_hf.data import cached_features, load_recordings
from uamix_hf.embedding import embed_features, save_encoder
from uamix_hf.evaluation import ProtocolArguments, evaluate_encoders
from uamix_hf.models.waveform_frames import WaveformFrames

ROOT = Path(__file__).parents[2]
OWN = Wav2Vec2FeatureExtractor(do_normalize=True)


def waveform_encoder(kind: str) -> PreTrainedModel:
    return make_encoder(kind, **as_published(kind))


CODE = """
from toy_sounds import tones, write_tones
from datasets import Dataset
from transformers import HubertConfig, HubertModel


class TunesConfig(HubertConfig):
    model_type = "tunes_model"


class TunesModel(HubertModel):
    config_class = TunesConfig
"""


@pytest.mark.parametrize("kind", ["wav2vec2", "wavlm-layer-norm", "sew"])
def test_cached_recordings_embed_as_their_samples_in_float16(kind: str, esc10: Path) -> None:
    recordings = load_recordings([str(esc10)]).select(range(0, 400, 80))
    embedder = AudioEmbedder(waveform_encoder(kind), OWN)
    embedder.feature_extractor.max_length = 320  # a clip of 5 s has two windows
    cached = cached_features(recordings, embedder.feature_extractor).dataset
    vectors = embed_features(embedder.model, embedder.feature_extractor, cached)
    waves = [load_audio(audio, 16_000) for audio in recordings["audio"]]
    rounded = embedder.encode([wave.astype(np.float16).astype(np.float32) for wave in waves], progress_bar=False)
    np.testing.assert_allclose(vectors, rounded, atol=1e-5)
    # Rounding moves an embedding by less than a sample's 2**-11, unless parts of the clip are digital silence, which
    # layer norms amplify.
    sounding = [row for row, wave in enumerate(waves) if (wave == 0).mean() < 0.01]
    exact = embedder.encode([waves[row] for row in sounding], progress_bar=False)
    assert len(sounding) >= 3
    assert np.abs(vectors[sounding] - exact).max() < 2.0**-11 * np.abs(exact).max()


def remote_encoder(folder: Path) -> Path:
    """A folder of HuBERT's build with code and a model_type of its own, at 24 kHz, as MERT's."""
    encoder = waveform_encoder("hubert")
    encoder.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=24_000, do_normalize=True).save_pretrained(folder)
    (folder / "modeling_tunes.py").write_text(CODE)
    config = HubertConfig.from_pretrained(folder).to_dict() | {
        "model_type": "tunes_model", "architectures": ["TunesModel"],
        "auto_map": {"AutoConfig": "modeling_tunes.TunesConfig", "AutoModel": "modeling_tunes.TunesModel"},
    }  # fmt: skip

    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_remote_code_of_hubert_s_build_embeds_at_its_own_rate(tmp_path: Path, esc10: Path) -> None:
    folder = remote_encoder(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code"):
        AudioEmbedder.from_pretrained(str(folder), trust_remote_code=False)
    embedder = AudioEmbedder.from_pretrained(str(folder), device="cpu", trust_remote_code=True)
    assert type(embedder.model).__name__ == "TunesModel" and embedder.feature_extractor.sampling_rate == 24_000
    assert embedder.window_samples == 20 * 24_000
    file = sorted((esc10 / "audio").iterdir())[0]
    wave = load_audio(file, 24_000)[: 160 * 700]
    values = torch.from_numpy(OWN(wave, sampling_rate=16_000, return_tensors="np")["input_values"])
    with torch.no_grad():
        expected = embedder.model(values).last_hidden_state.mean(1)[0]
    np.testing.assert_allclose(embedder.encode(wave, progress_bar=False), expected, atol=1e-5)
    whole = embedder.encode(str(file), progress_bar=False)  # resampled from its own rate
    assert np.abs(whole - embedder.encode(load_audio(file, 24_000), progress_bar=False)).max() < 1e-5


def labelled_tones(folder: Path) -> Path:
    """24 short clips of three classes, with labels."""
    rows = [f"{number:02d}.wav,{label}" for number, label in enumerate(tones(24)[1])]
    (write_tones(folder, 24) / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    return folder


def test_encoders_of_other_inputs_are_compared_side_by_side(tmp_path: Path) -> None:
    folder, knn = labelled_tones(tmp_path / "sounds"), ProtocolArguments(["knn"], neighbours=3)
    save_encoder(waveform_encoder("wav2vec2-layer-norm"), tmp_path / "waveform", OWN)
    encoders = {"log-mel": "model_cards/audio-mae-tiny", "waveform": str(tmp_path / "waveform"),
                "in memory": (waveform_encoder("wav2vec2-layer-norm"), OWN)}  # fmt: skip
    results, again = (
        evaluate_encoders(encoders, folder, protocols=knn, progress_bar=False, cache_dir=tmp_path / "cache")
        for _ in range(2)
    )
    assert [model["name"] for model in results["models"]] == list(encoders)
    accuracies = [model["scores"][0]["mean"] for model in results["models"]]
    assert accuracies[1] == accuracies[2] > 0.5  # untrained convolutions tell 300 Hz from 2500 Hz
    assert again["models"] == results["models"]


@pytest.mark.slow
def test_the_scripts_take_encoders_of_waveforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, encoder, vectors = labelled_tones(tmp_path / "sounds"), tmp_path / "encoder", tmp_path / "vectors.npz"
    save_encoder(waveform_encoder("hubert"), encoder, OWN)

    def script(name: str, *flags: object) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")

    script("embed.py", "--model_name_or_path", encoder, "--data_dir", folder, "--output_file", vectors)
    expected = AudioEmbedder(waveform_encoder("hubert"), OWN).encode(sorted(folder.glob("*.wav")), progress_bar=False)
    np.testing.assert_allclose(np.load(vectors)["vectors"], expected, atol=1e-5)
    script(
        "few_shot.py", "--model_name_or_path", encoder, "--data_dir", folder, "--n_way", 3, "--k_shot", 1,
        "--queries", 3, "--episodes", 10, "--output_dir", tmp_path / "results",
    )  # fmt: skip
    assert json.loads((tmp_path / "results" / "results.json").read_text())["models"][0]["scores"]


def test_what_was_cached_for_another_encoder_is_refused() -> None:
    encoder = waveform_encoder("wav2vec2")
    with pytest.raises(ValueError, match="frame_shift=80 and the encoder 160"):
        embed_features(encoder, WaveformFrames(frame_shift=80), Dataset.from_dict({"length": []}))
