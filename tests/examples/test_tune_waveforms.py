"""examples/tune.py with an encoder of waveforms: a folder of transformers comes out, and idle flags are refused."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from all_encoders import write_encoder
from processes import run_example
from toy_sounds import tones, write_tones
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from uamix_hf import AudioEmbedder

SCRIPT = Path(__file__).parents[2] / "examples" / "tune.py"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder("wav2vec2", tmp_path_factory.mktemp("encoders") / "base")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("sounds") / "recordings", 8)


def flags(base: Path, recordings: Path, output: Path, *more: object) -> list[str]:
    given = [
        "--model_name_or_path", base, "--train_dir", recordings, "--output_dir", output, "--use_cpu", "--report_to",
        "none", "--per_device_train_batch_size", 4, "--max_steps", 2, "--head_steps", 1, "--save_strategy", "no",
        "--projector_hidden_size", 16, "--projection_size", 8, "--predictor_hidden_size", 16, "--warmup_steps", 0,
        "--recipe", "plastic", *more,
    ]  # fmt: skip
    return list(map(str, given))


def check_tuned(base: Path, recordings: Path, output: Path) -> None:
    before, after = Wav2Vec2Model.from_pretrained(base), Wav2Vec2Model.from_pretrained(output)
    assert all(not torch.equal(value, after.get_parameter(f"encoder.{name}"))
               for name, value in before.encoder.named_parameters() if "k_proj.bias" not in name)  # fmt: skip
    assert Wav2Vec2FeatureExtractor.from_pretrained(output).do_normalize is False
    card = (output / "README.md").read_text()
    assert "| resize_mel | 1.0 |" in card and "| token_drop | 0.0 |" in card
    vectors = AudioEmbedder.from_pretrained(str(output), device="cpu").encode(
        sorted(recordings.iterdir()), progress_bar=False
    )
    np.testing.assert_allclose(vectors.mean(0), 0, atol=0.05)  # whitened over these clips


def test_it_tunes_in_this_process(base, recordings, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tune.py", *flags(base, recordings, tmp_path)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    check_tuned(base, recordings, tmp_path)


@pytest.mark.parametrize(
    "given, message",
    [
        (("--resize_mel", 1.2), r"resize_mel=1\.2: a waveform has no mel bins"),
        (("--mix", "cutmix"), "mix='cutmix': its boxes"),
        (("--token_drop", 0.5), r"token_drop=0\.5: Wav2Vec2Model cannot drop tokens"),
    ],
)
def test_flags_without_meaning_for_waveforms_are_refused(given, message, base, recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tune.py", *flags(base, recordings, tmp_path / "output", *given)])
    with pytest.raises(ValueError, match=message):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert not (tmp_path / "output" / "model.safetensors").exists()


@pytest.mark.slow
def test_it_tunes_from_the_command_line(base, recordings, tmp_path) -> None:
    command = [sys.executable, str(SCRIPT), *flags(base, recordings, tmp_path, "--mix", "mixup", "--noise_snr", 5)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    check_tuned(base, recordings, tmp_path)


@pytest.mark.slow
def test_two_processes_tune_clips_of_unequal_length(base, tmp_path) -> None:
    """The clips of each process pass the encoder in groups of equal length, as many as there are lengths."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for number, wave in enumerate(tones(8)[0]):
        soundfile.write(sounds / f"{number}.wav", np.resize(wave, 16_000 + 1600 * number), 16_000)
    run_example("tune.py", *flags(base, sounds, tmp_path / "tuned", "--min_view_frames", 0), world=2).well()
    check_tuned(base, sounds, tmp_path / "tuned")
