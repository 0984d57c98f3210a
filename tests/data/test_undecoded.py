"""Audio is read without torchcodec and FFmpeg, whatever the layout of a dataset, from a table and from a stream."""

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset

from uamix_hf import load_audio
from uamix_hf.data import load_recordings
from uamix_hf.data.streaming import hub_rows
from uamix_hf.data.undecoded import UndecodedAudio, without_torchcodec
from uamix_hf.data.where import StreamConditions

RATE = 16_000
WAVES = [np.random.default_rng(row).integers(-20_000, 20_000, 400 + row).astype(np.int16) for row in range(4)]


def wav(wave: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def folders(root: Path) -> None:
    for row, wave in enumerate(WAVES):
        path = root / "ab"[row % 2] / f"{row}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav(wave))


def listed(root: Path) -> None:
    folders(root)
    lines = [f"{'ab'[row % 2]}/{row}.wav,{row}" for row in range(4)]
    (root / "metadata.csv").write_text("\n".join(["file_name,number", *lines]))


def table(root: Path) -> None:
    column = [{"bytes": wav(wave), "path": f"{row}.wav"} for row, wave in enumerate(WAVES)]
    root.mkdir()
    Dataset.from_dict({"audio": column}).cast_column("audio", Audio()).to_parquet(root / "train.parquet")


def two_columns(root: Path) -> None:
    folders(root)
    lines = [f"{'ab'[row % 2]}/{row}.wav,a/0.wav" for row in range(4)]
    (root / "metadata.csv").write_text("\n".join(["file_name,other_file_name", *lines]))


def archive(root: Path) -> None:
    root.mkdir()
    with tarfile.open(root / "train.tar", "w") as tar:
        for row, wave in enumerate(WAVES):
            member = tarfile.TarInfo(f"{row}.wav")
            member.size = len(wav(wave))
            tar.addfile(member, io.BytesIO(wav(wave)))


LAYOUTS = {"folders": folders, "listed": listed, "table": table, "two_columns": two_columns, "archive": archive}


def read(dataset: str, column: str) -> tuple[set[bytes], set[bytes]]:
    """Samples of every row, of the table and of the stream."""
    rows = load_recordings(dataset_name=dataset, audio_column=column)["audio"][:]
    streamed = [row["audio"] for row in hub_rows(dataset, "train", column, StreamConditions([]))]
    return tuple({load_audio(value).tobytes() for value in values} for values in (rows, streamed))  # type: ignore[return-value]


@pytest.fixture(params=["absent", "OSError", "RuntimeError"])
def no_torchcodec(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchcodec is not installed, or is without FFmpeg's libraries, which it reports in one way or the other."""
    from datasets import config

    package = tmp_path / "packages" / "torchcodec"
    package.mkdir(parents=True)
    kind = "ImportError" if request.param == "absent" else request.param
    (package / "__init__.py").write_text(f"raise {kind}('Could not load libtorchcodec')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(config, "TORCHCODEC_AVAILABLE", request.param != "absent")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_without_torchcodec(layout: str, tmp_path: Path, no_torchcodec: None) -> None:
    with pytest.raises((ImportError, OSError, RuntimeError), match="torchcodec"):  # or this shows nothing
        Audio().encode_example("a.wav")
    LAYOUTS[layout](tmp_path / "clips")
    expected = {(wave / np.float32(2**15)).tobytes() for wave in WAVES}
    rows, streamed = read(str(tmp_path / "clips"), "wav" if layout == "archive" else "audio")
    assert rows == streamed == expected


def test_arrays_are_kept_as_they_are() -> None:
    """As `datasets` stores them where they are not decoded: full precision, every channel."""
    stereo = np.stack([WAVES[0], -WAVES[0] / 3]).astype(np.float32) / 2**15
    for array in (stereo, stereo[0]):
        value = UndecodedAudio().encode_example({"array": array, "sampling_rate": 8000})
        samples, rate = soundfile.read(io.BytesIO(value["bytes"]), dtype="float32")
        assert rate == 8000 and np.array_equal(samples.T, array)
    assert UndecodedAudio().encode_example(Path("a.wav")) == {"bytes": None, "path": "a.wav"}
    assert UndecodedAudio().encode_example(bytearray(b"x")) == {"bytes": b"x", "path": None}


def test_datasets_is_itself_again_afterwards() -> None:
    before = Audio.encode_example
    with pytest.raises(KeyError), without_torchcodec():
        assert Audio.encode_example is not before
        raise KeyError
    assert Audio.encode_example is before
