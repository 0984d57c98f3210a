"""The same audio under two names is one group: it is never found by its copy."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset

from uamix_hf import AudioMAEFeatureExtractor, DataError
from uamix_hf.data import (
    DataArguments,
    HeldOutArguments,
    load_recordings,
    prepare,
    read_groups,
    read_labels,
    split_held_out,
)
from uamix_hf.evaluation import SplitError, knn_probe, make_splits
from uamix_hf.evaluation.splits import check_split


def write_noise(path: Path, seed: int, seconds: float = 0.1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, round(16_000 * seconds)), 16_000)


def partition(groups: np.ndarray) -> list[list[int]]:
    return sorted(np.flatnonzero(groups == group).tolist() for group in np.unique(groups))


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """White noise, each clip twice, with the same random class and another speaker."""
    lines = ["file_name,label,speaker,fold"]
    labels = np.random.default_rng(0).integers(3, size=30)
    for number, label in enumerate(labels):
        write_noise(tmp_path / "clips" / f"{number}.wav", number)
        shutil.copy(tmp_path / "clips" / f"{number}.wav", tmp_path / "clips" / f"copy-{number}.wav")
        lines += [f"{name}{number}.wav,c{label},{name}{number},{len(name) % 2}" for name in ("", "copy-")]
    (tmp_path / "clips" / "metadata.csv").write_text("\n".join(lines))
    return tmp_path / "clips"


def test_noise_is_not_found_by_its_copy(noise: Path, caplog: pytest.LogCaptureFixture) -> None:
    recordings = load_recordings(str(noise))
    vectors = np.stack([soundfile.read(value["path"])[0] for value in recordings["audio"]])
    for column in (None, "speaker"):
        clips = read_labels(recordings, "label", None, column)
        assert partition(clips.groups) == [[2 * number, 2 * number + 1] for number in range(30)]
        assert knn_probe(vectors, clips.labels, None, 1)[0].mean == 1  # what it would be
        assert knn_probe(vectors, clips.labels, clips.groups, 1)[0].mean < 0.7  # of three classes
        for train, test in make_splits(clips.labels, clips.groups, n_splits=3):
            check_split(clips.groups, train, test)
        with pytest.raises(SplitError, match=r"30 groups .*clips/0\.wav" if column is None else "30 groups"):
            folds = [str(row % 2) for row in range(60)]
            make_splits(clips.labels, clips.groups, folds, names=clips.group_names)
    assert "30 of 60 rows have the audio of another row: " in caplog.text
    assert "copy-0.wav is " in caplog.text and "copy-4.wav" not in caplog.text  # thirty names would hide it


def test_groups_of_a_column_are_joined_by_copies(tmp_path: Path) -> None:
    speakers = ["ann", "ann", "bob", "bob", "", "", "cleo"]
    for number in range(7):
        write_noise(tmp_path / f"{number}.wav", {2: 1, 5: 4}.get(number, number))  # 2 is a copy of 1, 5 of 4
    lines = [f"{number}.wav,{speaker}" for number, speaker in enumerate(speakers)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,speaker", *lines]))
    recordings = load_recordings(str(tmp_path))
    assert partition(read_groups(recordings, "speaker")) == [[0, 1, 2, 3], [4, 5], [6]]
    assert partition(read_groups(recordings)) == [[0], [1, 2], [3], [4, 5], [6]]


def test_links_repeated_rows_and_copies_elsewhere_are_one_group(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    for number in range(3):
        write_noise(folder / f"{number}.wav", number)
    (folder / "link.wav").symlink_to("0.wav")
    (folder / "hard.wav").hardlink_to(folder / "1.wav")
    names = ["0.wav", "1.wav", "2.wav", "link.wav", "hard.wav", "./2.wav", "2.wav"]
    (folder / "metadata.csv").write_text("\n".join(["file_name", *names]))
    write_noise(tmp_path / "two" / "x.wav", 1)
    recordings = load_recordings([str(folder), str(tmp_path / "two")])
    assert partition(read_groups(recordings)) == [[0, 3], [1, 4, 7], [2, 5, 6]]


def test_what_differs_is_apart_however_much_is_alike(tmp_path: Path) -> None:
    """Files of one size whose headers, middles, or all but the last bytes are equal; empty ones are no audio."""
    whole = np.random.default_rng(0).uniform(-0.5, 0.5, 200_000)
    for number in range(4):
        changed = whole.copy()
        changed[[0, 100_000, 150_000, -1][number]] = 0.75
        soundfile.write(tmp_path / f"{number}.wav", changed, 16_000)
    assert len({path.stat().st_size for path in tmp_path.iterdir()}) == 1
    for name in ("empty.wav", "void.wav"):
        (tmp_path / name).touch()
    assert read_groups(load_recordings(str(tmp_path))) is None


def test_copies_in_a_dataset_are_one_group(tmp_path: Path) -> None:
    for number in range(3):
        write_noise(tmp_path / "wav" / f"{number}.wav", number)
    audio = [{"bytes": (tmp_path / "wav" / f"{number}.wav").read_bytes(), "path": None} for number in (0, 1, 0, 2)]
    table = Dataset.from_dict({"audio": audio}).cast_column("audio", Audio(decode=False))
    (tmp_path / "made").mkdir()
    table.to_parquet(tmp_path / "made" / "train.parquet")
    assert partition(read_groups(load_recordings(dataset_name=str(tmp_path / "made")))) == [[0, 2], [1], [3]]


def test_without_copies_groups_are_those_of_the_column(noise: Path) -> None:
    recordings = load_recordings(str(noise), where=["fold=0"])
    assert len(recordings) == 30 and read_groups(recordings) is None
    speakers = recordings["speaker"][:]
    assert read_groups(recordings, "speaker").tolist() == [sorted(speakers).index(name) for name in speakers]
    with pytest.raises(DataError, match="no column 'age'"):
        read_groups(recordings, "age")


def test_copies_are_held_out_together(noise: Path, tmp_path: Path) -> None:
    data = prepare(DataArguments([str(noise)], cache_dir=str(tmp_path / "cache")), AudioMAEFeatureExtractor())
    train, held = split_held_out(data, HeldOutArguments(eval_fraction=0.3), 0)
    assert len(held.dataset) == 18 and not set(train.groups) & set(held.groups)
    with pytest.raises(DataError, match=r"30 groups have clips on both sides of .*0\.wav, .*copy-0\.wav"):
        split_held_out(data, HeldOutArguments(eval_where=["fold=1"]), 0)


def test_a_clip_without_a_label_is_of_no_class(tmp_path: Path) -> None:
    labels = ["dog", "", "cat", " ", "dog"]
    for number in range(5):
        write_noise(tmp_path / "clips" / f"{number}.wav", number)
    (tmp_path / "clips" / "4.wav").write_bytes(b"no sound")
    lines = [f'{number}.wav,"{label}",' for number, label in enumerate(labels)]
    (tmp_path / "clips" / "metadata.csv").write_text("\n".join(["file_name,label,none", *lines]))
    args = DataArguments(
        [str(tmp_path / "clips")], label_column="label", on_error="skip", cache_dir=str(tmp_path / "c")
    )
    data = prepare(args, AudioMAEFeatureExtractor())
    assert data.label_names == ["cat", "dog"] and data.dataset["labels"][:].tolist() == [1, -1, 0, -1]
    args.label_column = "none"
    with pytest.raises(DataError, match="Not one clip has a none"):
        prepare(args, AudioMAEFeatureExtractor())
