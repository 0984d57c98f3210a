"""Rows are those that were asked for, or there is an error that says which value no row has."""

import unicodedata
from pathlib import Path

import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, Features, Value

from uamix_hf import DataError
from uamix_hf.data import column_as_text, load_recordings, rows_where

ROWS = ["a,1,dog", 'b,2," dog"', 'c,22,"Bark, woof"', "d,3,Ka\u0308uzchen", "e,,K\u00e4uzchen "]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, row in enumerate(ROWS):
        soundfile.write(tmp_path / f"{row[0]}.wav", [0.1, number / 100] * 400, 16_000)
    lines = ["file_name,fold,label", *(row.replace(",", ".wav,", 1) for row in ROWS)]
    (tmp_path / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("fold=1, 2", [0, 1]),
        ("fold= 1 ,22 ", [0, 2]),
        ("fold=,1", [0, 4]),
        ("fold=", [4]),
        ("label=dog", [0, 1]),
        ("label= dog ", [0, 1]),
        ('label="Bark, woof"', [2]),
        ('label=dog, "Bark, woof"', [0, 1, 2]),
        ("label=" + unicodedata.normalize("NFC", "Käuzchen"), [3, 4]),
        ("label=" + unicodedata.normalize("NFD", "Käuzchen"), [3, 4]),
    ],
)
def test_values_mean_what_they_read_like(folder: Path, where: str, ids: list[int]) -> None:
    assert load_recordings(str(folder), where=[where])["sample_id"][:] == ids


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("fold=1,222", r"No row has fold=222, as in fold=1,222; fold is , 1, 2, 22, 3\."),
        ("fold=1;2", "No row has fold=1;2;"),
        ("label=dog,cat", "No row has label=cat, as"),
        ("label=Bark, woof", "No row has label=Bark,woof, as"),
        ("label=", "No row has label=;"),
    ],
)
def test_a_value_that_no_row_has_is_an_error(folder: Path, where: str, says: str) -> None:
    table = load_recordings(str(folder))
    for read in (lambda: load_recordings(str(folder), where=[where]), lambda: rows_where(table, [where])):
        with pytest.raises(DataError, match=says):
            read()


def test_a_value_may_be_of_one_folder_alone(folder: Path, tmp_path: Path) -> None:
    other = tmp_path.parent / f"{tmp_path.name}-other"
    other.mkdir()
    soundfile.write(other / "x.wav", [0.2] * 800, 16_000)
    soundfile.write(other / "y.wav", [0.3] * 800, 16_000)
    (other / "metadata.csv").write_text("file_name,fold,label\nx.wav,7,dog\ny.wav,8,cat\n")
    folders = [str(folder), str(other)]
    assert load_recordings(folders, where=["fold=1,7"])["sample_id"][:] == [0, 5]
    with pytest.raises(DataError, match="No row has fold=9, as"):
        load_recordings(folders, where=["fold=1,7,9"])
    with pytest.raises(DataError, match="No row has fold=1, as"):
        load_recordings(folders, where=[f"{other.name}:fold=1,7"])


def test_classes_are_alike_that_read_alike(folder: Path) -> None:
    table = load_recordings(str(folder))
    assert column_as_text(table, "label") == ["dog", "dog", "Bark, woof", "K\u00e4uzchen", "K\u00e4uzchen"]


def test_what_is_no_value_is_empty_and_what_is_no_text_is_an_error() -> None:
    features = Features(kind=ClassLabel(names=["dog ", "cat"]), part=Value("float32"), tags=[Value("string")])
    rows = {"kind": [1, -1, None, 0], "part": [1.5, float("nan"), None, 2], "tags": [["a"], [], ["b"], ["c"]]}
    table = Dataset.from_dict(rows, features=features)
    assert column_as_text(table, "kind") == ["cat", "", "", "dog"]
    assert column_as_text(table, "part") == ["1.5", "", "", "2.0"]
    with pytest.raises(DataError, match="Column 'tags' holds"):
        column_as_text(table, "tags")


def test_rows_of_a_dataset_are_named_in_the_same_way(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", [0.1] * 800, 16_000)
    sound = {"bytes": (tmp_path / "a.wav").read_bytes(), "path": "a.wav"}
    table = Dataset.from_dict({"audio": [sound] * 3, "label": [" dog", "cat", "dog"]})
    (tmp_path / "made").mkdir()
    table.cast_column("audio", Audio(decode=False)).to_parquet(tmp_path / "made" / "train.parquet")
    name = str(tmp_path / "made")
    assert load_recordings(dataset_name=name, where=["label= dog"])["sample_id"][:] == [0, 2]
    with pytest.raises(DataError, match="No row has label=bird"):
        load_recordings(dataset_name=name, where=["label=dog,bird"])
