"""What is held out of training is what was asked for, wholly, and nothing of it stays behind."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_hf import AudioMAEFeatureExtractor, DataError
from uamix_hf.data import DataArguments, HeldOutArguments, PreparedData, column_as_text, prepare, split_held_out

SPEAKERS = ["ann", "ann", "bob", "bob", "", "", "cleo", "cleo", "cleo", "dan"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    lines = ["file_name,speaker,fold"]
    for number, speaker in enumerate(SPEAKERS):
        time = np.arange(1600 + 160 * number) / 16_000
        soundfile.write(folder / f"{number}.wav", np.sin(2 * np.pi * (200 + 50 * number) * time) / 2, 16_000)
        lines.append(f"{number}.wav,{speaker},{number % 5}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> PreparedData:
    args = DataArguments([str(folder)], group_column="speaker", cache_dir=str(tmp_path / "cache"))
    return prepare(args, AudioMAEFeatureExtractor())


def ids(data: PreparedData) -> list[int]:
    """Of the clips, after a check that all that is known of a row is of the same clip."""
    found = [int(number) for number in data.dataset["sample_id"]]
    assert list(data.recordings["sample_id"]) == found
    assert [len(mel) for mel in data.dataset["features"]] == [8 + number for number in found]
    return found


def test_rows_that_meet_all_conditions_are_held_out(data: PreparedData) -> None:
    train, held = split_held_out(data, HeldOutArguments(eval_where=["speaker=cleo,dan", "fold=1,2,3,4"]), 0)
    assert held is not None
    assert (ids(train), ids(held)) == ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9])
    assert column_as_text(held.recordings, "speaker") == ["cleo"] * 3 + ["dan"]
    assert held.groups is not None and len(set(held.groups)) == 2 and not set(held.groups) & set(train.groups)


def test_a_share_of_the_groups_is_drawn_by_seed(data: PreparedData) -> None:
    drawn = set()
    for seed in range(20):
        train, held = split_held_out(data, HeldOutArguments(eval_fraction=0.34), seed)
        again = split_held_out(data, HeldOutArguments(eval_fraction=0.34), seed)[1]
        assert held is not None and again is not None and ids(held) == ids(again)
        assert sorted(ids(train) + ids(held)) == list(range(10))
        names = {SPEAKERS[row] or row for row in ids(held)}
        assert len(names) == 2  # of six: four speakers, and two clips of unknown ones that count each alone
        assert not names & {SPEAKERS[row] or row for row in ids(train)}
        drawn |= names
    assert drawn == {"ann", "bob", "cleo", "dan", 4, 5}


def test_without_groups_clips_are_drawn_and_at_least_one(data: PreparedData) -> None:
    data.groups = None
    for share, count in ((0.01, 1), (0.5, 5), (0.99, 9)):
        train, held = split_held_out(data, HeldOutArguments(eval_fraction=share), 1)
        assert held is not None and len(ids(held)) == count and len(ids(train)) == 10 - count


def test_nothing_is_held_out_unasked(data: PreparedData) -> None:
    train, held = split_held_out(data, HeldOutArguments(), 0)
    assert held is None and ids(train) == list(range(10))


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (["fold=0"], "groups have clips on both sides"),  # ann, cleo and another fold's clips of theirs
        (["fold=7"], "No row has fold=7"),
        (["age=7"], "no column 'age'"),
        (["fold"], "not of the form"),
        (["fold=0,1,2,3,4"], "none is left"),
    ],
)
def test_what_cannot_be_held_out_is_refused(data: PreparedData, conditions: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_held_out(data, HeldOutArguments(eval_where=conditions), 0)


@pytest.mark.parametrize(
    "wrong", [{"eval_fraction": 1.0}, {"eval_fraction": -0.1}, {"eval_fraction": 0.5, "eval_where": ["a=b"]}]
)
def test_contradicting_flags_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="eval_fraction"):
        HeldOutArguments(**wrong)


def test_recordings_stay_aligned_where_unreadable_ones_are_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "3.wav").write_bytes(b"no sound")
    args = DataArguments([str(folder)], on_error="skip", cache_dir=str(tmp_path / "cache"))
    data = prepare(args, AudioMAEFeatureExtractor())
    assert ids(data) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
