"""Encoders compared from Python: given as folders or as objects, with and without files."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from toy_sounds import CONFIG, EXTRACTOR, tones
from transformers import set_seed

import uamix_hf.evaluation.fine_tuning as fine_tuning
from uamix_hf import AudioEmbedder, AudioMAEModel
from uamix_hf.data import load_recordings
from uamix_hf.evaluation import (
    EpisodeError,
    ProtocolArguments,
    evaluate_encoders,
    few_shot_accuracy,
    paired_difference,
    score_table,
)
from uamix_hf.metrics import EvaluationError

WAVES, LABELS = tones(36, seed=3)
FEW = ProtocolArguments(["few_shot"], n_way=3, k_shot=[2], queries=4, episodes=20, seed=4)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 tones of three classes; two by each speaker."""
    folder = tmp_path_factory.mktemp("tones")
    lines = ["file_name,pitch,speaker"]
    for number, (wave, label) in enumerate(zip(WAVES, LABELS, strict=True)):
        soundfile.write(folder / f"{number:02}.wav", wave, 16_000, subtype="FLOAT")
        lines.append(f"{number:02}.wav,{'abc'[label]},{number // 2}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def encoder(seed: int) -> AudioMAEModel:
    set_seed(seed)
    return AudioMAEModel(CONFIG).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    encoder(0).save_pretrained(folder)
    EXTRACTOR.save_pretrained(folder)
    return folder


def test_scores_and_differences_are_those_of_the_protocol_by_hand(
    recordings: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoders = {
        "folder": saved,
        "same": (encoder(0), EXTRACTOR),
        "other": AudioEmbedder(encoder(1), EXTRACTOR),
    }
    results = evaluate_encoders(encoders, recordings, "pitch", FEW, group_column="speaker", progress_bar=False)
    assert list(tmp_path.iterdir()) == []  # nothing is written unasked
    groups = np.arange(36) // 2
    table = load_recordings(recordings)
    by_hand = [
        few_shot_accuracy(
            AudioEmbedder(encoder(seed), EXTRACTOR).encode(table["audio"][:], progress_bar=False),
            LABELS, groups, 3, 2, 4, 20, seed=4,
        )
        for seed in (0, 1)
    ]  # fmt: skip
    means = [model["scores"][0]["mean"] for model in results["models"]]
    assert means == pytest.approx([by_hand[0].mean, by_hand[0].mean, by_hand[1].mean])
    expected = paired_difference(*by_hand)
    same, other = results["comparisons"]
    assert (same["first"], same["second"], same["difference"]) == ("folder", "same", 0.0)
    assert (other["low"], other["difference"], other["high"]) == pytest.approx(
        (expected.low, expected.mean, expected.high)
    )
    assert [model["path"] for model in results["models"]] == [str(saved), *["AudioMAEModel in memory"] * 2]
    assert results["arguments"]["data_dir"] == [str(recordings)] and results["arguments"]["group_column"] == "speaker"
    assert "difference" in str(score_table(results))


def test_results_report_and_plots_are_written(recordings: Path, saved: Path, tmp_path: Path) -> None:
    output, table = tmp_path / "new" / "results", load_recordings(recordings)
    encoders = {"saved": saved, "other": (encoder(1), EXTRACTOR)}
    results = evaluate_encoders(encoders, table, "pitch", FEW, output_dir=output, progress_bar=False, command="how <")
    assert json.loads((output / "results.json").read_text()) == results
    page = (output / "report.html").read_text()
    assert "AudioMAEModel in memory" in page and "how &lt;" in page and ">None<" not in page
    assert {path.name for path in output.glob("*.png")} == {"class_gains.png", "embeddings.png"}
    assert len(list((output / "embeddings").iterdir())) == 1  # by the folder; weights in memory have no name


def test_unreadable_recordings_are_left_out_by_name(recordings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in recordings.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "07.wav").write_bytes(b"no audio")
    model = {"one": (encoder(0), EXTRACTOR)}
    results = evaluate_encoders(model, folder, "pitch", FEW, on_error="skip", progress_bar=False)
    assert results["data"]["clips"] == 35
    (name,) = results["data"]["skipped"]
    assert name.endswith("07.wav")


def test_what_cannot_be_evaluated_is_refused_before_anything_is_embedded(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AudioEmbedder, "encode", None)
    model = {"one": (encoder(0), EXTRACTOR)}
    with pytest.raises(EvaluationError, match="no encoders"):
        evaluate_encoders({}, recordings, "pitch")
    with pytest.raises(EvaluationError, match="cache_dir"):
        evaluate_encoders(model, recordings, "pitch", FEW, cache_dir=tmp_path)
    with pytest.raises(EpisodeError, match="5 are needed: lower n_way"):
        evaluate_encoders(model, recordings, "pitch", output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_encoder_in_memory_is_fine_tuned_too_and_left_as_it_is(
    recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = fine_tuning.FineTuningArguments
    monkeypatch.setattr(fine_tuning, "FineTuningArguments", lambda **more: short(max_steps=1, use_cpu=True, **more))
    model = encoder(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    args = ProtocolArguments(["low_shot", "fine_tune"], low_shot_k=[2], low_shot_seeds=1, n_splits=2)
    results = evaluate_encoders({"one": (model, EXTRACTOR)}, recordings, "pitch", args, progress_bar=False)
    frozen, tuned = results["models"][0]["scores"]
    assert (frozen["protocol"], tuned["protocol"]) == ("low_shot", "fine_tune")
    assert frozen["trials"] == tuned["trials"] == 2
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
