"""A folder is read as `audiofolder` reads it, and what is not used of it is said."""

import json
import logging
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import load_dataset

from uamix_hf import DataError
from uamix_hf.data import column_as_text, load_recordings
from uamix_hf.data.undecoded import without_torchcodec

NAMES = [f"audio/{number}.wav" for number in range(4)]
LABELS = ["01", "dog", "", "Käuzchen"]


def write_sound(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, [0.1, number / 100] * 400, 16_000)


def write_metadata(path: Path, columns: dict[str, list]) -> None:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        lines = [columns.keys(), *(row.values() for row in rows)]
        path.write_text("\n".join(",".join(map(str, line)) for line in lines))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four recordings, all in one folder: its name must not become their class."""
    for number, name in enumerate(NAMES):
        write_sound(tmp_path / "clips" / name, number)
    return tmp_path / "clips"


def by_audiofolder(folder: Path) -> dict[str, dict]:
    """Rows of all splits as `datasets` reads them, by file."""
    rows = {}
    with without_torchcodec():
        for split, table in load_dataset("audiofolder", data_dir=str(folder)).items():
            table = table.cast_column("audio", type(table.features["audio"])(decode=False))
            for row in table:
                rows[row["audio"]["path"]] = {"split": split, **row}
    return rows


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_metadata_of_each_kind_is_read(folder: Path, ending: str) -> None:
    write_metadata(folder / f"metadata.{ending}", {"file_name": NAMES[::-1], "label": LABELS[::-1]})
    table = load_recordings(str(folder))
    assert table["file_name"][:] == NAMES[::-1] and table["label"][:] == LABELS[::-1]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_cells_become_text_and_nothing_is_empty(folder: Path, ending: str) -> None:
    write_metadata(
        folder / f"metadata.{ending}", {"file_name": NAMES, "a": [1, 2, None, 4], "b": [True, False, True, None]}
    )
    table = load_recordings(str(folder), where=["b=True"])
    assert table["a"][:] == ["1", ""] and table["file_name"][:] == [NAMES[0], NAMES[2]]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_metadata_in_sub_folders_is_read_as_audiofolder_does(tmp_path: Path, ending: str) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for number in range(count):
            write_sound(tmp_path / split / "audio" / f"{number}.wav", number)
        columns = {"file_name": NAMES[:count], "label": [f"{split[:2]}{number}" for number in range(count)]}
        write_metadata(tmp_path / split / f"metadata.{ending}", columns)
    expected = by_audiofolder(tmp_path)
    table = load_recordings(str(tmp_path))
    assert len(table) == len(expected) == 5
    for row in table:
        peer = expected[row["audio"]["path"]]
        assert (row["label"], row["split"]) == (peer["label"], peer["split"])
        assert tmp_path / row["file_name"] == Path(row["audio"]["path"])
    assert load_recordings(str(tmp_path), where=["split=test"])["label"][:] == ["te0", "te1"]


def test_names_of_splits_are_no_classes(tmp_path: Path) -> None:
    for number, name in enumerate(["train/dog/a.wav", "train/cat/b.wav", "test/dog/c.wav", "test/cat/d.wav"]):
        write_sound(tmp_path / "nested" / name, number)
        write_sound(tmp_path / "flat" / Path(name).parts[0] / Path(name).name, number)
        write_sound(tmp_path / "traffic" / ("car", "train")[number % 2] / f"{number}.wav", number)
    table, expected = load_recordings(str(tmp_path / "nested")), by_audiofolder(tmp_path / "nested")
    assert {row["audio"]["path"]: row["split"] for row in table} == {key: row["split"] for key, row in expected.items()}
    assert table["label"][:] == ["cat", "dog", "cat", "dog"]
    flat = load_recordings(str(tmp_path / "flat"))
    assert "label" not in flat.column_names and flat["split"][:] == ["test", "test", "train", "train"]
    traffic = load_recordings(str(tmp_path / "traffic"))  # here it has wheels
    assert traffic["label"][:] == ["car", "car", "train", "train"] and "split" not in traffic.column_names


def test_recordings_beside_the_classes_have_none(tmp_path: Path) -> None:
    write_sound(tmp_path / "clips" / "dog" / "a.wav")
    write_sound(tmp_path / "clips" / "b.wav", 1)
    assert load_recordings(str(tmp_path / "clips"))["label"][:] == ["", "dog"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"Metadata.csv": "file_name\n"}, "Metadata.csv is not read as metadata: rename it to metadata.csv"),
        ({"audio/METADATA.JSONL": ""}, "rename it to metadata.jsonl"),
        ({"metadata.csv": "file_name\naudio/0.wav\n", "metadata.jsonl": ""}, "several kinds"),
        ({"metadata.csv": "file_name,a\naudio/0.wav,1\n", "audio/metadata.csv": "file_name\n1.wav\n"},
         "different columns: a"),
        ({"audio/metadata.csv": "file_name\n../../other/0.wav\n"}, "outside"),
        ({"metadata.jsonl": '{"file_name": "audio/0.wav", "tags": ["a"]}'}, "line 1, tags holds"),
        ({"metadata.jsonl": '{"file_name": "audio/0.wav"}\n["a"]'}, "line 2: not an object"),
        ({"metadata.jsonl": '{"file_name": "audio/0.wav"}\n{"file_name"'}, "line 2: not JSON"),
        ({"metadata.jsonl": '{"file_name": "audio/0.wav", "a": 1, "a": 2}'}, "line 1: a name comes twice"),
        ({"metadata.jsonl": '{"file_name": "audio/0.wav"}\n{"label": "a"}'}, "line 2: file_name is empty"),
        ({"metadata.jsonl": '{"path": "audio/0.wav"}'}, "no column file_name, only path"),
        ({"metadata.jsonl": ""}, "no column file_name, only nothing"),
        ({"metadata.jsonl": "[" * 100_000}, "line 1: not JSON"),
        ({"metadata.parquet": "PAR1"}, "not a Parquet file"),
        ({"metadata.parquet": ""}, "not a Parquet file"),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_followed_is_refused_by_name(folder: Path, files: dict[str, str], says: str) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        load_recordings(str(folder))
    assert str(folder) in str(caught.value)


def test_recordings_that_metadata_leaves_out_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4, 40):
        write_sound(folder / "audio" / f"{number}.wav", number)
    (folder / "link.wav").symlink_to("audio/0.wav")  # the same recording as one that is listed
    write_metadata(folder / "metadata.csv", {"file_name": [f"audio/{number}.wav" for number in range(6)]})
    assert len(load_recordings(str(folder))) == 6
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "34 of 40 audio files are left out, not listed in metadata.csv: audio/10.wav," in record.getMessage()


def test_hidden_files_are_left_out_as_audiofolder_does_and_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    hidden = ["._x.wav", "__MACOSX/audio/a.wav", "audio/.Trashes/b.wav", ".ipynb_checkpoints/c.wav", "a/__b/c/d.wav"]
    for number, name in enumerate([*hidden, "audio/__e.wav"]):
        write_sound(folder / name, 10 + number)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "metadata.csv").write_text("no table")
    table = load_recordings(str(folder))
    assert set(by_audiofolder(folder)) == {row["audio"]["path"] for row in table}
    assert table["file_name"][:] == [*NAMES, "audio/__e.wav"]
    assert "5 of 10 audio files are left out, hidden: ._x.wav" in caplog.text
    write_metadata(folder / "metadata.csv", {"file_name": ["._x.wav"]})  # but what is named is what is meant
    assert load_recordings(str(folder))["file_name"][:] == ["._x.wav"]
    write_sound(folder.parent / ".cache" / "clips" / "a.wav")
    assert (
        len(load_recordings(str(folder.parent / ".cache" / "clips"))) == 1
    )  # of the folder's own path nothing is said


def test_sound_of_other_kinds_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "audio" / "x.wma").write_bytes(b"sound")
    (folder / "audio" / "notes.txt").write_text("none")
    assert len(load_recordings(str(folder))) == 4
    assert "1 of 5 audio files are left out" in caplog.text and "audio/x.wma" in caplog.text
    assert "notes" not in caplog.text


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_match_however_their_letters_are_composed(tmp_path: Path, forms: tuple[str, str]) -> None:
    there, listed = (unicodedata.normalize(form, "Käuzchen/ü.wav") for form in forms)
    assert there != listed
    write_sound(tmp_path / there)
    write_metadata(tmp_path / "metadata.csv", {"file_name": [listed], "label": [listed.partition("/")[0]]})
    table = load_recordings(str(tmp_path), where=[f"label={unicodedata.normalize(forms[0], 'Käuzchen')}"])
    assert Path(table["audio"][0]["path"]).samefile(tmp_path / there)
    assert column_as_text(table, "label") == ["Käuzchen"]


def test_columns_that_not_all_folders_have_are_said(folder: Path, tmp_path: Path, caplog) -> None:
    write_metadata(folder / "metadata.csv", {"file_name": NAMES, "fold": [1, 2, 1, 2], "label": LABELS})
    write_sound(tmp_path / "other" / "dog" / "x.wav", 9)
    table = load_recordings([str(folder), str(tmp_path / "other")])
    assert set(table.column_names) == {"audio", "file_name", "label", "sample_id"}
    assert "clips: not all folders have fold, so they are left out." in caplog.text and len(caplog.records) == 1
