"""Folders and Hub datasets become the same kind of table, filtered by what is known of each recording."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, Features, Value
from hub_server import HubServer

from uamix_hf import DataError, load_audio
from uamix_hf.data import column_as_text, load_recordings

RATE = 16_000


def write_sound(path: Path, number: int = 0, seconds: float = 0.05) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * RATE)) / RATE
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * (200 + 100 * number) * time), RATE)
    return path


def write_metadata(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    """Recordings two folders deep, among files of other kinds."""
    folder = tmp_path / "sound of the 森"
    names = ["dogs/one.wav", "dogs/old/two.FLAC", "cats/three.ogg", "cats/four.wav"]
    for number, name in enumerate(names):
        write_sound(folder / name, number)
    (folder / "notes.txt").write_text("no sound")
    (folder / "cats" / "cover.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Five recordings with metadata.csv."""
    folder = tmp_path / "listed"
    values = [("01", "ann", "1"), ("02", "", "2"), ("NA", "bob", "1"), ("01", "bob", "3"), ("", "ann", "2")]
    rows = []
    for number, (label, speaker, fold) in enumerate(values):
        write_sound(folder / f"clips/{number}.wav", number)
        rows.append({"file_name": f"clips/{number}.wav", "label": label, "speaker": speaker, "fold": fold})
    write_sound(folder / "clips/unlisted.wav")
    write_metadata(folder, rows)
    return folder


def test_a_nested_folder_is_read_in_order_and_labelled_by_folder(nested: Path) -> None:
    table = load_recordings(str(nested))
    assert table["file_name"][:] == ["cats/four.wav", "cats/three.ogg", "dogs/old/two.FLAC", "dogs/one.wav"]
    assert table["label"][:] == ["cats", "cats", "old", "dogs"]
    assert table["sample_id"][:] == [0, 1, 2, 3]
    for row in table:
        assert row["audio"] == {"bytes": None, "path": str(nested / row["file_name"])}
        assert len(load_audio(row["audio"])) == 800
    assert "label" not in load_recordings(str(nested / "cats")).column_names  # a flat folder has no classes


def test_metadata_gives_rows_order_and_columns_as_text(listed: Path) -> None:
    table = load_recordings(str(listed))
    assert table["file_name"][:] == [f"clips/{number}.wav" for number in range(5)]
    assert table["label"][:] == ["01", "02", "NA", "01", ""]  # neither numbers nor missing values are made of them
    assert table["speaker"][:] == ["ann", "", "bob", "bob", "ann"]
    assert [Path(row["audio"]["path"]).is_file() for row in table] == [True] * 5


def test_metadata_may_come_from_a_spreadsheet(tmp_path: Path) -> None:
    """With a byte-order mark, Windows line ends, quotes, empty columns, and rows that end early."""
    for name in ("a, b.wav", "ü.wav", "c.wav"):
        write_sound(tmp_path / name)
    lines = ["file_name,label,note", '"a, b.wav","says ""hi""",', "ü.wav,Käuzchen,", "c.wav"]
    (tmp_path / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    table = load_recordings(str(tmp_path))
    assert table["file_name"][:] == ["a, b.wav", "ü.wav", "c.wav"]
    assert table["label"][:] == ['says "hi"', "Käuzchen", ""]
    assert table["note"][:] == ["", "", ""]


def test_metadata_columns_of_our_names_do_not_get_in_the_way(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav")
    write_sound(tmp_path / "b.wav")
    rows = [{"file_name": name, "audio": "x", "sample_id": "77"} for name in ("b.wav", "a.wav")]
    write_metadata(tmp_path, rows)
    table = load_recordings(str(tmp_path))
    assert [Path(row["audio"]["path"]).name for row in table] == ["b.wav", "a.wav"]
    assert table["sample_id"][:] == [0, 1]


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ([], [0, 1, 2, 3, 4]),
        (["label=01"], [0, 3]),
        (["label=01,02"], [0, 1, 3]),
        (["fold=1,2", "speaker=ann,bob"], [0, 2, 4]),
        (["fold=1,2", "speaker=ann,bob", "label=NA"], [2]),
        (["speaker="], [1]),
        (["speaker=,bob"], [1, 2, 3]),
        (["file_name=clips/3.wav"], [3]),
    ],
)
def test_where_keeps_the_rows_that_meet_all_conditions_with_their_ids(listed: Path, where, ids: list[int]) -> None:
    table = load_recordings(str(listed), where=where)
    assert table["sample_id"][:] == ids
    assert table["file_name"][:] == [f"clips/{number}.wav" for number in ids]


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (["colour=red"], ["colour", "label", "speaker", "fold"]),
        (["fold=7"], ["fold=7", "1, 2, 3"]),
        (["fold=1", "label=02"], ["label=02", "01, NA"]),  # of the rows that are left
        (["label=1"], ["label=1", "01"]),
        (["fold"], ["COLUMN=VALUE"]),
    ],
)
def test_impossible_conditions_say_what_there_is(listed: Path, where: list[str], says: list[str]) -> None:
    with pytest.raises(DataError) as refusal:
        load_recordings(str(listed), where=where)
    assert all(part in str(refusal.value) for part in says)


@pytest.mark.parametrize("kind", ["parent", "absolute", "file link", "folder link"])
def test_metadata_cannot_name_files_outside_its_folder(tmp_path: Path, kind: str) -> None:
    folder, secret = tmp_path / "data", write_sound(tmp_path / "secret" / "clip.wav")
    write_sound(folder / "in.wav")
    names = {
        "parent": "../secret/clip.wav",
        "absolute": str(secret),
        "file link": "link.wav",
        "folder link": "link/clip.wav",
    }
    (folder / "link.wav").symlink_to(secret)
    (folder / "link").symlink_to(secret.parent)
    write_metadata(folder, [{"file_name": "in.wav"}, {"file_name": names[kind]}])
    with pytest.raises(DataError, match="outside") as refusal:
        load_recordings(str(folder))
    assert names[kind] in str(refusal.value)


def test_links_inside_the_folder_are_fine(tmp_path: Path) -> None:
    write_sound(tmp_path / "clips" / "a.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "clips" / "a.wav")
    write_metadata(tmp_path, [{"file_name": "b.wav"}, {"file_name": "clips/../clips/a.wav"}])
    assert len(load_recordings(str(tmp_path))) == 2


def test_unusable_folders_are_errors_that_name_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing is not a folder"):
        load_recordings(str(tmp_path / "missing"))
    with pytest.raises(DataError, match=r"no recordings .*\.flac"):
        load_recordings(str(tmp_path))
    write_metadata(tmp_path, [{"file_name": "gone.wav"}])
    with pytest.raises(DataError, match=r"gone\.wav, which does not exist"):
        load_recordings(str(tmp_path))
    write_metadata(tmp_path, [{"path": "gone.wav", "label": "a"}])
    with pytest.raises(DataError, match="no column file_name, only path, label"):
        load_recordings(str(tmp_path))
    for sources in ({}, {"data_dir": str(tmp_path), "dataset_name": "user/clips"}):
        with pytest.raises(DataError, match="either"):
            load_recordings(**sources)


def test_text_of_columns() -> None:
    features = Features(kind=ClassLabel(names=["dog", "cat"]), number=Value("int32"), note=Value("string"))
    rows = {"kind": [1, 0, 1], "number": [3, None, 1], "note": ["a", None, ""]}
    table = Dataset.from_dict(rows, features=features)
    assert column_as_text(table, "kind") == ["cat", "dog", "cat"]
    assert column_as_text(table, "number") == ["3", "", "1"]
    assert column_as_text(table, "note") == ["a", "", ""]


PULL = """
import json, sys
from uamix_hf import AudioMAEFeatureExtractor, DataError, load_audio
from uamix_hf.data import cached_features, load_recordings

table = load_recordings(dataset_name="user/clips", audio_column="sound", where=["label=dog"])
log_mels = cached_features(table, AudioMAEFeatureExtractor())
try:
    load_recordings(dataset_name="user/clips")
except DataError as error:
    refusal = str(error)
result = {
    "columns": table.column_names,
    "ids": table["sample_id"][:],
    "samples": [load_audio(row["audio"]).tolist() for row in table],
    "lengths": [int(length) for length in log_mels.dataset["length"]],
    "refusal": refusal,
}
json.dump(result, open(sys.argv[1], "w"))
"""


@pytest.mark.slow
def test_a_dataset_of_the_hub_is_the_same_kind_of_table(tmp_path: Path) -> None:
    waves = [np.random.default_rng(row).uniform(-0.5, 0.5, (3000 + 1000 * row, 2)) for row in range(4)]
    sounds = []
    for row, wave in enumerate(waves):
        file = io.BytesIO()
        soundfile.write(file, wave, RATE, format="FLAC")
        sounds.append({"bytes": file.getvalue(), "path": f"{row}.flac"})
    table = Dataset.from_dict({"sound": sounds, "label": [0, 1, 0, 1]})
    table = table.cast_column("sound", Audio(decode=False)).cast_column("label", ClassLabel(names=["cat", "dog"]))
    table.to_parquet(tmp_path / "table.parquet")
    with HubServer() as hub:
        file = {"data/train-00000-of-00001.parquet": (tmp_path / "table.parquet").read_bytes()}
        hub.add("user/clips", file, repo_type="dataset")
        environment = os.environ | hub.environment(tmp_path / "home")
        environment["HF_DATASETS_CACHE"] = str(tmp_path / "cache")
        command = [sys.executable, "-c", PULL, str(tmp_path / "result.json")]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert process.returncode == 0, process.stderr
        assert hub.unhandled == []
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["columns"]) == {"audio", "label", "sample_id"}
    assert result["ids"] == [1, 3]
    assert "'audio', only sound, label" in result["refusal"]
    for row, samples, length in zip((1, 3), result["samples"], result["lengths"], strict=True):
        np.testing.assert_allclose(samples, waves[row].mean(axis=1), atol=2**-15)
        assert length == 1 + (len(samples) - 400) // 160


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Three recordings, whose metadata has other columns than `listed`."""
    folder = tmp_path / "second"
    rows = [{"file_name": f"{n}.wav", "label": f"b{n}", "split": "train" if n else "test"} for n in range(3)]
    for number in range(3):
        write_sound(folder / f"{number}.wav", number)
    write_metadata(folder, rows)
    return folder


def test_several_folders_are_one_table_with_conditions_for_each(listed: Path, second: Path) -> None:
    both = load_recordings([listed, second])
    assert sorted(both.column_names) == ["audio", "file_name", "label", "sample_id"]
    assert both["sample_id"][:] == list(range(8))
    assert both["label"][:] == ["01", "02", "NA", "01", "", "b0", "b1", "b2"]
    chosen = load_recordings([str(listed), str(second)], where=["listed:fold=1", "second:split=train"])
    assert chosen["sample_id"][:] == [0, 2, 6, 7]  # the same numbers whichever rows are used
    assert [Path(value["path"]).parent.name for value in chosen["audio"]] == ["clips", "clips", "second", "second"]
    assert load_recordings([listed, second], where=["listed:label=01", "label=01,b1"])["sample_id"][:] == [0, 3, 6]
    assert load_recordings([listed])["fold"][:] == load_recordings(listed)["fold"][:]


def test_conditions_of_folders_are_checked(listed: Path, second: Path) -> None:
    with pytest.raises(DataError, match="no column 'split'"):
        load_recordings([listed, second], where=["split=train"])  # of both, but one has no such column
    with pytest.raises(DataError, match="no column 'third:split'"):
        load_recordings([listed, second], where=["third:split=train"])
    with pytest.raises(DataError, match="same name"):
        load_recordings([second, second])
    with pytest.raises(DataError, match="Give either"):
        load_recordings([])
    for given in ({"dataset_split": "test"}, {"audio_column": "sound"}):
        with pytest.raises(DataError, match="no effect on folders"):
            load_recordings(str(listed), **given)


def test_flags_name_several_folders(listed: Path, second: Path) -> None:
    from transformers import HfArgumentParser

    from uamix_hf.data import DataArguments

    command = ["--train_dir", str(listed), str(second), "--where", "listed:fold=1", "--where", "second:split=test"]
    (args,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses(command)
    assert args.train_dir == [str(listed), str(second)]
    assert args.source == "listed, second, listed:fold=1, second:split=test"
    assert DataArguments(train_dir=str(listed)).source == "listed"


@pytest.fixture
def with_splits(tmp_path: Path) -> Path:
    """A dataset with two configurations, one of which has a column `split` of its own."""
    folder = tmp_path / "made"
    configs = []
    for config, columns in (("plain", {}), ("own", {"split": ["a", "b"]})):
        for split, first in (("train", 0), ("test", 2)):
            clips = [{"array": np.full(800, 0.01 * (first + row)), "sampling_rate": RATE} for row in range(2)]
            table = Dataset.from_dict({"sound": clips, "number": [first, first + 1]} | columns)
            table.to_parquet(folder / config / f"{split}-0.parquet")
        files = [{"split": split, "path": f"{config}/{split}-*"} for split in ("train", "test")]
        configs.append({"config_name": config, "data_files": files})
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    return folder


def test_several_splits_are_one_table_with_the_names_of_the_splits(with_splits: Path) -> None:
    name = str(with_splits)
    both = load_recordings(
        dataset_name=name, dataset_split="train+test", audio_column="sound", config_name="plain", where=["number=1,2"]
    )
    assert both["split"][:] == ["train", "test"] and both["sample_id"][:] == [1, 2]
    part = load_recordings(dataset_name=name, dataset_split="test[:1]+train", audio_column="sound", config_name="plain")
    assert list(zip(part["split"][:], part["number"][:], strict=True)) == [("test", 2), ("train", 0), ("train", 1)]
    one = load_recordings(dataset_name=name, dataset_split="test", audio_column="sound", config_name="own")
    assert one["split"][:] == ["a", "b"]
    with pytest.raises(DataError, match="has a column 'split': give one split, not train\\+test"):
        load_recordings(dataset_name=name, dataset_split="train+test", audio_column="sound", config_name="own")
    with pytest.raises(DataError, match="config_name go with dataset_name"):
        load_recordings(name, config_name="plain")
