"""A saved classifier in transformers' own pipeline: arrays, files of any rate and length, and batches."""

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from toy_sounds import CONFIG, EXTRACTOR, tones
from transformers import AudioClassificationPipeline, pipeline
from transformers.utils import is_torchaudio_available

from uamix_hf import AudioMAEConfig, AudioMAEForAudioClassification, InputTooLongError, load_audio
from uamix_hf.hub.cards import fine_tuned_card

RATE, NAMES = 16_000, ("low", "middle", "high")
WAVES = tones(6)[0]
needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="transformers reads files with the command ffmpeg, which is not installed"
)


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`save(truncation=False, **config)`: folder of a classifier with random weights, of uneven scores."""

    def save(truncation: bool = False, **config) -> Path:
        folder = tmp_path_factory.mktemp("classifier")
        settings = {"id2label": dict(enumerate(NAMES)), "label2id": {name: k for k, name in enumerate(NAMES)}}
        torch.manual_seed(0)
        model = AudioMAEForAudioClassification(AudioMAEConfig(**CONFIG.to_dict() | settings | config))
        with torch.no_grad():
            model.classifier.weight.normal_(std=0.3)
        model.save_pretrained(folder)
        EXTRACTOR.__class__.from_dict(EXTRACTOR.to_dict(), truncation=truncation).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def folder(save) -> Path:
    return save()


@pytest.fixture(scope="module")
def classify(folder: Path) -> AudioClassificationPipeline:
    return pipeline("audio-classification", model=str(folder))


def scores_of(answer: list[dict]) -> dict[str, float]:
    assert [one["score"] for one in answer] == sorted((one["score"] for one in answer), reverse=True)
    return {one["label"]: one["score"] for one in answer}


def by_hand(folder: Path, wave: np.ndarray, function=lambda logits: logits.softmax(-1)) -> dict:
    """Scores of one clip without pipeline and padding: whole patches of frames, no mask."""
    model = AudioMAEForAudioClassification.from_pretrained(folder).eval()
    values = EXTRACTOR(wave, sampling_rate=RATE, return_tensors="pt").input_values
    with torch.no_grad():
        scores = function(model(values).logits[0])
    return pytest.approx(dict(zip(NAMES, scores.tolist(), strict=True)), abs=1e-5)


def whole_patches(wave: np.ndarray, patches: int = 2) -> np.ndarray:
    """The head of a wave that fills its frames exactly."""
    return wave[: (16 * patches - 1) * 160 + 400]


# --- what is put in


def test_arrays_of_each_kind_give_the_models_scores(folder: Path, classify) -> None:
    wave = whole_patches(WAVES[0])
    expected = by_hand(folder, wave)
    assert sum(expected.expected.values()) == pytest.approx(1)
    kinds = [
        wave, wave.astype(np.float64), torch.from_numpy(wave), {"raw": wave, "sampling_rate": RATE},
        {"array": wave, "sampling_rate": RATE, "path": None},
    ]  # fmt: skip
    for kind in kinds:
        assert scores_of(classify(kind)) == expected
    quantised = np.round(wave * 32768).astype(np.int16)
    assert scores_of(classify(quantised)) == pytest.approx(expected.expected, abs=2e-3)


def test_a_list_is_a_batch_and_a_data_set_a_stream(classify) -> None:
    expected = [classify(wave) for wave in WAVES]
    assert classify(WAVES) == expected
    assert list(classify(wave for wave in WAVES)) == expected


def test_what_is_no_clip_is_refused(classify) -> None:
    with pytest.raises(ValueError, match="single channel"):
        classify(np.zeros((2, 800), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        classify(np.full(800, np.nan, np.float32))
    with pytest.raises(ValueError, match='"sampling_rate" key'):
        classify({"array": WAVES[0]})


@pytest.mark.extra
@needs_ffmpeg
@pytest.mark.parametrize("ending", ["wav", "flac", "mp3"])
def test_files_give_what_their_samples_give(classify, tmp_path: Path, ending: str) -> None:
    """Of mp3, ffmpeg leaves the coding's padding at the end, which libsndfile takes away."""
    path = tmp_path / f"clip.{ending}"
    soundfile.write(path, WAVES[0], RATE)
    ours = load_audio(path)
    extra = {"wav": 0, "flac": 0, "mp3": -(len(ours) + 1105) % 576}[ending]  # LAME's delay, and whole MPEG-2 frames
    answers = [classify(str(path)), classify(path.read_bytes())]
    assert answers[0] == answers[1]
    padded = scores_of(classify(np.pad(ours, (0, extra))))
    assert scores_of(answers[0]) == pytest.approx(padded, abs=1e-3 if extra == 0 else 0.05)


@pytest.mark.extra
@needs_ffmpeg
def test_a_file_of_another_rate_is_resampled(classify, tmp_path: Path) -> None:
    """ffmpeg's low-pass is not soxr's, which shows just below 4 kHz; at the wrong speed all would be another."""
    soundfile.write(tmp_path / "clip.wav", soxr.resample(WAVES[0], RATE, 8000), 8000, subtype="FLOAT")
    ours, wrong = load_audio(tmp_path / "clip.wav"), load_audio(tmp_path / "clip.wav", 8000)
    expected = scores_of(classify(ours))
    assert scores_of(classify(str(tmp_path / "clip.wav"))) == pytest.approx(expected, abs=0.05)
    assert scores_of(classify(wrong)) != pytest.approx(expected, abs=0.1)


@pytest.mark.extra
@needs_ffmpeg
def test_a_file_that_is_no_sound_is_refused(classify, tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("not a sound")
    with pytest.raises(ValueError, match="Malformed soundfile"):
        classify(str(tmp_path / "notes.wav"))


def test_an_array_of_another_rate_is_resampled_or_refused(classify) -> None:
    """transformers does it with torchaudio alone; never is it heard at the wrong speed."""
    slow = {"array": soxr.resample(WAVES[0], RATE, 8000), "sampling_rate": 8000}
    if is_torchaudio_available():
        assert scores_of(classify(slow)) == pytest.approx(scores_of(classify(load_audio(slow))), abs=0.02)
    else:
        with pytest.raises(ImportError, match="torchaudio is required to resample"):
            classify(slow)
    assert scores_of(classify(load_audio(slow))) == pytest.approx(
        scores_of(classify(soxr.resample(slow["array"], 8000, RATE))), abs=1e-5
    )


# --- what comes out


def test_the_best_come_first_and_as_many_as_asked(classify) -> None:
    everything = classify(WAVES[1])
    assert {one["label"] for one in everything} == set(NAMES)  # fewer than the five by default
    assert classify(WAVES[1], top_k=1) == everything[:1] and classify(WAVES[1], top_k=2) == everything[:2]
    assert classify(WAVES[1], top_k=99) == everything


@pytest.mark.parametrize(
    ("problem_type", "function"),
    [
        ("single_label_classification", lambda logits: logits.softmax(-1)),
        ("multi_label_classification", torch.sigmoid),
        ("regression", lambda logits: logits),
    ],
)
def test_scores_suit_the_problem(save, problem_type: str, function: Callable) -> None:
    path, wave = save(problem_type=problem_type), whole_patches(WAVES[2])
    classify = pipeline("audio-classification", model=str(path))
    assert scores_of(classify(wave)) == by_hand(path, wave, function)
    assert scores_of(classify(wave, function_to_apply="none")) == by_hand(path, wave, lambda logits: logits)


def test_no_warning_says_that_the_model_is_unknown(folder: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    pipeline("audio-classification", model=str(folder))(WAVES[0])
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.WARNING] == []


# --- lengths


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_clips_of_unequal_length_score_alike_alone_and_in_a_batch(folder: Path, attention: str) -> None:
    classify = pipeline(
        "audio-classification", model=str(folder), model_kwargs={"attn_implementation": attention}, top_k=None
    )
    waves = [WAVES[0], WAVES[1][:300], WAVES[2][:9000], WAVES[3], whole_patches(WAVES[4], 4)]
    assert len({len(wave) for wave in waves}) == 5
    alone = [scores_of(classify(wave)) for wave in waves]
    for batch_size in (2, 5):
        together = [scores_of(answer) for answer in classify(waves, batch_size=batch_size)]
        assert together == [pytest.approx(scores, abs=1e-5) for scores in alone]


def test_a_recording_that_is_too_long_is_refused_with_its_cure(classify) -> None:
    with pytest.raises(InputTooLongError, match=r"112 frames .* truncation=True"):
        classify(np.tile(WAVES[0], 9)[: 110 * 160])


def test_a_recording_that_is_too_long_is_cut_where_that_was_saved(save, caplog) -> None:
    """As transformers does for AST, but not silently; also beside short ones."""
    classify = pipeline("audio-classification", model=str(save(truncation=True)))
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    (long, *_) = answers = classify([noise, *WAVES], batch_size=3)
    assert "longer than 64 frames of 10 ms are cut" in caplog.text
    # The mean of the clip is removed before it is cut.
    assert scores_of(long) == pytest.approx(scores_of(classify(whole_patches(noise - noise.mean(), 4))), abs=1e-3)
    assert [scores_of(answer) for answer in answers[1:]] == [
        pytest.approx(scores_of(classify(wave)), abs=1e-5) for wave in WAVES
    ]


# --- precision, and the card


def test_half_precision_runs_and_is_close(folder: Path, classify) -> None:
    half = pipeline("audio-classification", model=str(folder), dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    answers = half(WAVES, batch_size=3)
    for answer, expected in zip(answers, classify(WAVES), strict=True):
        assert {one["label"]: one["score"] for one in answer} == pytest.approx(scores_of(expected), abs=0.03)


@pytest.mark.extra
@needs_ffmpeg
def test_the_lines_on_the_card_work(folder: Path, classify, tmp_path: Path, monkeypatch) -> None:
    card = fine_tuned_card("you/base", "tones", 6, "single_label_classification", NAMES, {}, {}, repo_id=str(folder))
    monkeypatch.chdir(tmp_path)
    soundfile.write("recording.wav", WAVES[5], RATE, subtype="FLOAT")
    lines = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1]
    scope: dict = {}
    exec(lines.replace("classifier(", "answer = classifier("), scope)
    assert scores_of(scope["answer"]) == pytest.approx(scores_of(classify(WAVES[5])), abs=1e-4)
