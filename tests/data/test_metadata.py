"""An untrusted audio folder, however it is made, chooses nothing that is read outside of it."""

import os
import re
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from uamix_hf import DataError
from uamix_hf.data import load_recordings

MISSING = "which does not exist"


def write_sound(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, [0.1, -0.1] * 400, 16_000)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recording, beside a folder of recordings that are none of its business."""
    write_sound(tmp_path / "private" / "x.wav")
    write_sound(tmp_path / "data" / "in.wav")
    return tmp_path / "data"


def refusal(folder: Path, **arguments) -> str:
    with pytest.raises(DataError) as caught:
        load_recordings(str(folder), **arguments)
    message = str(caught.value)
    assert str(folder) in message and len(message) < 1000
    return message


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../private/x.wav", "outside"),
        ("./in.wav/../../private/x.wav", "outside"),
        ("../data/../private/x.wav", "outside"),
        ("/etc/hostname", "outside"),
        ("/proc/self/environ", "outside"),
        ("..", "outside"),
        # As Windows writes it: there outside, here the name of no file.
        ("..\\private\\x.wav", MISSING if os.sep == "/" else "outside"),
        ("C:\\private\\x.wav", MISSING if os.sep == "/" else "outside"),
        ("file:///etc/hostname", MISSING),
        ("https://example.org/x.wav", MISSING),
        ("hf://datasets/user/x/x.wav", MISSING),
        ("zip://x.wav::../private/x.zip", MISSING),
        ("~/x.wav", MISSING),
        ("$HOME/x.wav", MISSING),
        (".", MISSING),
        ("loop.wav", MISSING),
        ("pipe.wav", MISSING),  # opening one would wait for ever
        ("a" * 5000, MISSING),
        ("in.wav/x.wav", MISSING),
        ("in.wav ", MISSING),
        ("gone\nin.wav", MISSING),
    ],
)
def test_listed_names_lead_to_files_of_the_folder_or_are_refused(folder: Path, name: str, says: str) -> None:
    (folder / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(folder / "pipe.wav")
    (folder / "metadata.csv").write_text(f'file_name\nin.wav\n"{name}"\n')
    message = refusal(folder)
    assert says in message and name[:100] in message


def test_links_that_stay_are_read_once_and_links_that_leave_are_refused(folder: Path, tmp_path: Path) -> None:
    write_sound(folder / "dogs" / "a.wav")
    (folder / "again.wav").symlink_to("dogs/a.wav")
    (folder / "cats").symlink_to("dogs")  # the same recordings under another name are no second class
    (folder / "up").symlink_to("..", target_is_directory=True)
    with pytest.raises(DataError, match=r"holds the link up, which lies outside"):
        load_recordings(str(folder))
    (folder / "up").unlink()
    (folder / "self").symlink_to(".", target_is_directory=True)  # following it would never end
    assert load_recordings(str(folder))["file_name"][:] == ["again.wav", "dogs/a.wav", "in.wav"]
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be a link: whoever names it chooses it
    assert len(load_recordings(str(tmp_path / "link"))) == 3

    private = tmp_path / "private"
    for target, name in ((private / "x.wav", "dogs/b.wav"), (private, "birds"), (Path("../../private"), "dogs/birds")):
        (folder / name).symlink_to(target)
        assert f"holds the link {name}, which lies outside the folder: copy it" in refusal(folder)
        (folder / name).unlink()
    (folder / "far.wav").symlink_to("dogs/gone.wav")  # not left out in silence
    assert f"holds the link far.wav, {MISSING}" in refusal(folder)
    (folder / "far.wav").unlink()
    (folder / "notes.txt").symlink_to(private / "x.wav")  # no sound by its name: nothing opens it
    assert len(load_recordings(str(folder))) == 3


def test_metadata_that_is_a_link_out_of_the_folder_is_not_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "private" / "passwords").write_text("secret,line\n")
    (folder / "metadata.csv").symlink_to(tmp_path / "private" / "passwords")
    message = refusal(folder)
    assert "outside" in message and "secret" not in message
    (folder / "metadata.csv").unlink()
    (folder / "metadata.csv").symlink_to("gone.csv")  # labels must not come from the folders' names instead
    assert MISSING in refusal(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no column file_name, only nothing"),
        (b"\n\n\n", "no column file_name, only nothing"),
        (b"\x00\x01\x02", "NUL"),
        (b"file_name\nin.wav\x00.txt\n", "NUL"),
        ("file_name,label\nin.wav,a\n".encode("utf-16"), "not UTF-8"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(1, 256)), "not UTF-8"),
        (b"RIFF$\x10\x00\x00WAVEfmt ", "NUL"),
        (b"x" * 300_000, "field larger than field limit"),
        (b"file_name\n" + b"x" * 300_000, "not comma-separated values (field larger than field limit"),
        (b",".join(b"column%d" % i for i in range(50_000)), "no column file_name, only column0, column1"),
        (b"file_name,label,label,fold,fold\nin.wav,a,b,1,2\n", "several columns of the name fold, label"),
        (b"file_name,file_name\nin.wav,../private/x.wav\n", "several columns of the name file_name"),
        (b"file_name,label\nin.wav,a,b\n", "line 2: more cells than the header"),
        (b"file_name,label\nin.wav,rain, heavy\n", "line 2: more cells than the header"),
        (b'file_name,label\n"in.wav,a\nin.wav,b\n', "not comma-separated values (unexpected end of data)"),
        (b'file_name,label\n"in"x.wav,a\n', "near line 1: not comma-separated values"),
        (b"file_name,label\nin.wav,a\n,b\n", "line 3: file_name is empty"),
        (b"file_name;label\nin.wav;a\n", "no column file_name, only file_name;label"),
        (b"file_name,label\n", "holds no recordings"),
    ],
)
def test_hostile_tables_are_errors_that_name_the_file(folder: Path, content: bytes, says: str) -> None:
    (folder / "metadata.csv").write_bytes(content)
    assert says in refusal(folder)


def test_what_spreadsheets_leave_behind_is_no_error(folder: Path) -> None:
    (folder / "metadata.csv").write_bytes(b"file_name,label,,\r\nin.wav,a,,\r\n\r\nin.wav,b\r\nin.wav,c,,,,\r\n")
    table = load_recordings(str(folder))
    assert table["label"][:] == ["a", "b", "c"] and set(table.column_names) == {
        "audio", "file_name", "label", "sample_id"
    }  # fmt: skip


def test_a_name_that_is_not_unicode_is_an_error(folder: Path) -> None:
    write_sound(folder / "x.wav").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav"))
    with pytest.raises(DataError, match=r"caf\\udce9\.wav' has a name that is not UTF-8: rename it"):
        load_recordings(str(folder))


def parquet(folder: Path, path: Path, content: bytes | None) -> Path:
    """A dataset of one row, as it would come from the Hub."""
    folder.mkdir()
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    column = pa.array([{"bytes": content, "path": str(path)}], kind)
    pq.write_table(pa.table({"audio": column}), folder / "train.parquet")
    return folder


def test_rows_of_a_dataset_cannot_name_files_that_did_not_come_with_it(folder: Path, tmp_path: Path) -> None:
    private = tmp_path / "private" / "x.wav"
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "x.wav").symlink_to(private)
    for number, path in enumerate([private, tmp_path / "3" / ".." / "private" / "x.wav", tmp_path / "links" / "x.wav"]):
        dataset = parquet(tmp_path / f"dataset{number}", path, None)
        with pytest.raises(DataError, match=re.escape(f"lists {path}, which is not a file of the dataset")):
            load_recordings(dataset_name=str(dataset))
    held = parquet(tmp_path / "held", private, private.read_bytes())  # the name is never opened where there are bytes
    assert load_recordings(dataset_name=str(held))["audio"][0]["bytes"] == private.read_bytes()
    own = parquet(tmp_path / "own", tmp_path / "own" / "x.wav", None)
    assert load_recordings(dataset_name=str(own))["audio"][0]["path"] == str(own / "x.wav")


@pytest.mark.parametrize("name", ["../private/x.wav", "/etc/hostname", "file:///etc/hostname"])
def test_metadata_of_a_dataset_is_checked_too(folder: Path, name: str) -> None:
    (folder / "metadata.csv").write_text(f"file_name,label\nin.wav,a\n{name},b\n")
    with pytest.raises(DataError, match="data .*" + re.escape(name)):
        load_recordings(dataset_name=str(folder))
    (folder / "metadata.csv").write_text("file_name,label\nin.wav,a\n")
    assert load_recordings(dataset_name=str(folder))["label"][:] == ["a"]


def test_archives_are_not_unpacked(folder: Path) -> None:
    sound = (folder / "in.wav").read_bytes()
    (folder / "in.wav").unlink()
    before = set(folder.parent.rglob("*"))
    for members in (["a/one.wav"], ["a/one.wav", "../../escaped.wav"], ["/tmp/escaped-from-a-zip.wav"]):
        with zipfile.ZipFile(folder / "data.zip", "w") as archive:
            for member in members:
                archive.writestr(member, sound)
        with pytest.raises((DataError, FileNotFoundError), match="unpack it and give the folder|No .* data files"):
            load_recordings(dataset_name=str(folder))
        with pytest.raises(DataError, match="holds no recordings"):
            load_recordings(str(folder))
        assert set(folder.parent.rglob("*")) - before == {folder / "data.zip"}
    assert not Path("/tmp/escaped-from-a-zip.wav").exists()


def test_a_column_without_sound_is_an_error(folder: Path) -> None:
    (folder / "in.wav").unlink()
    (folder / "table.csv").write_text("audio,label\n3,b\n")
    with pytest.raises(DataError, match="Column 'audio' of .*data holds no audio"):
        load_recordings(dataset_name=str(folder))
