"""Embeddings in Parquet files: each recording once, as one process would compute it, whatever happened before."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from datasets import Audio, Dataset, IterableDataset, load_dataset
from processes import run_code

from uamix_hf import AudioEmbedder, AudioInputError, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel, DataError
from uamix_hf.data import load_recordings
from uamix_hf.embedding import ShardSettingsError, embed_to_shards, parts
from uamix_hf.embedding.shard_files import Part, missing_rows

RATE, WINDOW = 16_000, 63 * 160 + 400  # samples of 64 whole frames
LENGTHS = [4000, WINDOW, WINDOW + 399, WINDOW + 400, 3 * WINDOW - 100, 100, 9000]  # samples


def make_embedder(seed: int = 0, max_length: int = 64) -> AudioEmbedder:
    torch.manual_seed(seed)
    config = AudioMAEConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=32, max_length=64
    )
    model = AudioMAEModel(config)
    torch.nn.init.normal_(model.embeddings.patch_embeddings.projection.weight, std=0.2)
    return AudioEmbedder(model, AudioMAEFeatureExtractor(max_length=max_length))


@pytest.fixture(scope="module")
def embedder() -> AudioEmbedder:
    return make_embedder()


def noise(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, length).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sound").mkdir()
    for number, length in enumerate(LENGTHS):
        soundfile.write(tmp_path / "sound" / f"{number}.wav", noise(length, number), RATE, subtype="FLOAT")
    return tmp_path / "sound"


def read(output: Path, kind: str = "vectors") -> list[dict[str, Any]]:
    """All rows, in the order of the files' names."""
    return [row for file in sorted((output / kind).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def quiet(embedder: AudioEmbedder, recordings: Any, output: Path, **options: Any):
    return embed_to_shards(embedder, recordings, output, progress_bar=False, **options)


def assert_same(rows: list[dict], others: list[dict]) -> None:
    assert [(row["file"], row["start"], row["end"]) for row in rows] == [
        (row["file"], row["start"], row["end"]) for row in others
    ]
    np.testing.assert_allclose([row["vector"] for row in rows], [row["vector"] for row in others], atol=1e-6)


def test_rows_are_windows_and_their_vectors_those_of_the_samples_alone(embedder, folder: Path, tmp_path: Path) -> None:
    report = quiet(embedder, folder, tmp_path / "out", shard_size=3, batch_size=2)
    rows = read(tmp_path / "out")
    assert (report.recordings, report.rows, report.failed) == (7, len(rows), 0)
    # 399 samples after a window are no frame, 400 are one.
    counts = [1, 1, 1, 2, 3, 1, 1]
    assert [row["file"] for row in rows] == [f"{n}.wav" for n, count in enumerate(counts) for _ in range(count)]
    for row in rows:
        number = int(row["file"].removesuffix(".wav"))
        first, end = round(row["start"] * RATE), round(row["end"] * RATE)
        assert end <= LENGTHS[number] and first % WINDOW == 0
        alone = embedder.encode(noise(LENGTHS[number], number)[first:end], progress_bar=False)
        np.testing.assert_allclose(row["vector"], alone, atol=1e-5)
    schema = pq.read_schema(next((tmp_path / "out" / "vectors").glob("*")))
    assert schema.names == ["file", "start", "end", "vector"]
    assert schema.field("vector").type == pa.list_(pa.float32(), 24)
    loaded = load_dataset("parquet", data_files=str(tmp_path / "out/vectors/*.parquet"), split="train")
    assert loaded.num_rows == len(rows)


def test_windows_overlap(embedder, folder: Path, tmp_path: Path) -> None:
    overlap = 0.25
    quiet(embedder, folder, tmp_path / "out", overlap=overlap)
    hop = WINDOW - round(overlap * RATE)
    rows = read(tmp_path / "out")
    for number, length in enumerate(LENGTHS):
        starts = [start for start in range(0, length, hop) if start == 0 or length - start - (WINDOW - hop) >= 400]
        own = [row for row in rows if row["file"] == f"{number}.wav"]
        assert [round(row["start"] * RATE) for row in own] == starts
        for row, start in zip(own, starts, strict=True):
            samples = noise(length, number)[start : start + WINDOW]
            assert round(row["end"] * RATE) == start + len(samples)
            np.testing.assert_allclose(row["vector"], embedder.encode(samples, progress_bar=False), atol=1e-5)


@pytest.mark.parametrize("overlap", [-0.1, WINDOW / RATE])
def test_windows_that_do_not_advance_are_refused(embedder, folder: Path, tmp_path: Path, overlap: float) -> None:
    with pytest.raises(ValueError, match=f"overlap={overlap}"):
        quiet(embedder, folder, tmp_path / "out", overlap=overlap)


def test_processes_share_the_shards_and_any_number_continues(embedder, folder: Path, tmp_path: Path, caplog) -> None:
    quiet(embedder, folder, tmp_path / "one", shard_size=2)
    reports = [quiet(embedder, folder, tmp_path / "two", shard_size=2, process=(rank, 2)) for rank in (1, 0)]
    assert [report.recordings for report in reports] == [3, 4]
    assert_same(read(tmp_path / "two"), read(tmp_path / "one"))
    quiet(embedder, folder, tmp_path / "half", shard_size=2, process=(0, 2))
    report = quiet(embedder, folder, tmp_path / "half", shard_size=2)  # one process has nothing to divide
    assert report.recordings == 3
    assert_same(read(tmp_path / "half"), read(tmp_path / "one"))
    assert quiet(embedder, folder, tmp_path / "half", shard_size=2).recordings == 0
    with caplog.at_level(logging.WARNING):
        quiet(embedder, folder, tmp_path / "six", shard_size=2, process=(0, 6))
    assert "6 processes for 4 shards" in caplog.text


def test_a_shard_is_continued_where_its_files_end(embedder, folder: Path, tmp_path: Path, monkeypatch) -> None:
    quiet(embedder, folder, tmp_path / "whole")
    monkeypatch.setattr(parts, "PART_ROWS", 3)
    quiet(embedder, folder, tmp_path / "out")
    files = sorted((tmp_path / "out" / "vectors").iterdir())
    assert [file.name.partition("-")[2] for file in files] == [
        "000000000-000000003.parquet", "000000003-000000005.parquet", "000000005-000000007-last.parquet",
    ]  # fmt: skip
    assert_same(read(tmp_path / "out"), read(tmp_path / "whole"))
    for lost in ([0], [1], [2], [0, 2], [1, 2]):
        for place in lost:
            files[place].unlink()
        report = quiet(embedder, folder, tmp_path / "out")
        assert report.recordings == sum([3, 2, 2][place] for place in lost)
        assert sorted((tmp_path / "out" / "vectors").iterdir()) == files
        assert_same(read(tmp_path / "out"), read(tmp_path / "whole"))


def test_missing_rows_are_those_of_no_part() -> None:
    assert missing_rows([]) == [(0, None)]
    assert missing_rows([Part(0, 0, 5, False)]) == [(5, None)]
    assert missing_rows([Part(0, 2, 5, False), Part(0, 7, 8, True)]) == [(0, 2), (5, 7)]
    assert missing_rows([Part(0, 0, 5, False), Part(0, 5, 5, True)]) == []


def test_unreadable_recordings_are_recorded_and_not_tried_again(embedder, folder: Path, tmp_path: Path, caplog) -> None:
    (folder / "1.wav").write_bytes(b"no sound")
    # Damaged after its first window, which must not count either.
    soundfile.write(folder / "4.flac", noise(40 * WINDOW, 4), RATE)
    flac = bytearray((folder / "4.flac").read_bytes())
    flac[len(flac) // 2 : len(flac) // 2 + 2000] = bytes(2000)
    (folder / "4.flac").write_bytes(flac)
    with pytest.raises(AudioInputError, match=r"1\.wav"):
        quiet(embedder, folder, tmp_path / "out", batch_size=2)
    with caplog.at_level(logging.WARNING):
        report = quiet(embedder, folder, tmp_path / "out", batch_size=2, on_error="skip")
    failed = read(tmp_path / "out", "failed")
    assert [row["file"] for row in failed] == ["1.wav", "4.flac"] and "not readable as audio" in failed[0]["error"]
    assert report.failed == 2 and report.recordings == 6 and "1.wav" in caplog.text
    assert {row["file"] for row in read(tmp_path / "out")} == {f"{number}.wav" for number in (0, 2, 3, 4, 5, 6)}

    soundfile.write(folder / "1.wav", noise(4000, 1), RATE)
    again = quiet(embedder, folder, tmp_path / "out")
    assert (again.recordings, again.failed) == (0, 0)
    for file in (tmp_path / "out" / "failed").iterdir():  # how they are tried again
        (tmp_path / "out" / "vectors" / file.name).unlink()
    (folder / "4.flac").write_bytes((folder / "4.wav").read_bytes())
    assert quiet(embedder, folder, tmp_path / "out").recordings == 8
    assert not list((tmp_path / "out" / "failed").iterdir())
    assert {row["file"] for row in read(tmp_path / "out")} > {"1.wav", "4.flac"}


def test_a_file_that_could_not_be_written_is_absent(embedder, folder: Path, tmp_path: Path, monkeypatch) -> None:
    write_table = pq.write_table

    def full_disk(table: pa.Table, path: Path) -> None:
        write_table(table, path)
        os.truncate(path, 20)
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        quiet(embedder, folder, tmp_path / "out")
    assert not list((tmp_path / "out" / "vectors").iterdir())


SETTINGS = [
    ("encoder", {}, {"seed": 1}),
    ("max_length", {}, {"max_length": 32}),
    ("overlap", {"overlap": 0.1}, {}),
    ("shards", {"shard_size": 2}, {}),
]


@pytest.mark.parametrize("name, options, model", SETTINGS, ids=[entry[0] for entry in SETTINGS])
def test_other_settings_are_refused_by_name(embedder, folder, tmp_path: Path, name, options, model) -> None:
    quiet(embedder, folder, tmp_path / "out")
    before = read(tmp_path / "out")
    with pytest.raises(ShardSettingsError, match=f"{name} was .*, now "):
        quiet(make_embedder(**model), folder, tmp_path / "out", **options)
    assert read(tmp_path / "out") == before
    assert quiet(make_embedder(), folder, tmp_path / "out").recordings == 0  # equal weights from elsewhere


def test_whitening_and_pooling_are_part_of_the_encoder(folder: Path, tmp_path: Path) -> None:
    embedder = make_embedder()
    quiet(embedder, folder, tmp_path / "out")
    embedder.fit_whitening([noise(8000, seed) for seed in range(60)], size=8, progress_bar=False)
    with pytest.raises(ShardSettingsError, match="encoder was"):
        quiet(embedder, folder, tmp_path / "out")
    embedder = make_embedder()
    embedder.model.config.pooling = "cls"
    with pytest.raises(ShardSettingsError, match="encoder was"):
        quiet(embedder, folder, tmp_path / "out")


def test_other_recordings_are_refused(embedder, folder: Path, tmp_path: Path) -> None:
    quiet(embedder, folder, tmp_path / "out")
    (folder / "0.wav").rename(folder / "00.wav")
    with pytest.raises(ShardSettingsError, match="names was"):
        quiet(embedder, folder, tmp_path / "out")


def test_a_folder_of_something_else_is_refused(embedder, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardSettingsError, match="is not empty"):
        quiet(embedder, folder, folder)
    quiet(embedder, folder, tmp_path / "out")
    settings = tmp_path / "out" / "settings.json"
    settings.write_text(settings.read_text()[:-20])
    with pytest.raises(ShardSettingsError, match="not as it was written"):
        quiet(embedder, folder, tmp_path / "out")
    settings.unlink()
    with pytest.raises(ShardSettingsError, match=r"has no settings\.json"):
        quiet(embedder, folder, tmp_path / "out")


def test_arguments_without_a_meaning_are_refused(embedder, folder: Path, tmp_path: Path) -> None:
    for options in ({"on_error": "ignore"}, {"process": (2, 2)}, {"shard_size": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            quiet(embedder, folder, tmp_path / "out", **options)
    with pytest.raises(ValueError, match="a folder is needed"):
        embed_to_shards(embedder, folder, "memory://out")
    assert not (tmp_path / "out").exists()


def test_a_name_stands_for_one_recording(embedder, folder: Path, tmp_path: Path) -> None:
    table = load_recordings(str(folder)).remove_columns("sample_id").select([0, 1, 1])
    with pytest.raises(DataError, match=r"1\.wav twice"):
        quiet(embedder, table, tmp_path / "out")
    with pytest.raises(DataError, match="no column who"):
        quiet(embedder, load_recordings(str(folder)), tmp_path / "out", name_column="who")
    with pytest.raises(DataError, match="has no name"):
        quiet(embedder, load_recordings(str(folder)).add_column("id", [""] * 7), tmp_path / "out", name_column="id")


def test_a_weight_that_is_nan_stops_the_run_and_names_the_file(folder: Path, tmp_path: Path) -> None:
    embedder = make_embedder()
    with torch.no_grad():
        next(embedder.model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"The embedding of \d\.wav is not finite"):
        quiet(embedder, folder, tmp_path / "out")


@pytest.fixture
def bucket(folder: Path) -> Iterator[str]:
    """The recordings in an object store of this process, in two folders."""
    system = fsspec.filesystem("memory")
    for number, file in enumerate(sorted(folder.iterdir())):
        system.pipe(f"/bucket/{'ab'[number % 2]}/{file.name}", file.read_bytes())
    system.pipe("/bucket/a/.hidden.wav", b"")
    system.pipe("/bucket/readme.txt", b"")
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


def test_recordings_of_an_object_store_are_those_of_the_files(embedder, folder, bucket: str, tmp_path: Path) -> None:
    quiet(embedder, bucket, tmp_path / "remote", shard_size=2)
    quiet(embedder, folder, tmp_path / "local")
    rows = read(tmp_path / "remote")
    assert {row["file"] for row in rows} == {f"{'ab'[number % 2]}/{number}.wav" for number in range(7)}
    for row in rows:
        row["file"] = row["file"][2:]
    assert_same(sorted(rows, key=lambda row: (row["file"], row["start"])), read(tmp_path / "local"))
    with pytest.raises(DataError, match="holds no recordings"):
        quiet(embedder, "memory://elsewhere", tmp_path / "other")
    with pytest.raises(DataError, match="nosuch"):
        quiet(embedder, "nosuch://elsewhere", tmp_path / "other")


def test_a_missing_object_is_recorded_and_a_broken_connection_stops(
    embedder, bucket: str, tmp_path: Path, monkeypatch
) -> None:
    paths = {"audio": ["memory://bucket/a/0.wav", "memory://bucket/a/gone.wav"]}
    table = Dataset.from_dict(paths).cast_column("audio", Audio(decode=False))
    report = quiet(embedder, table, tmp_path / "out", on_error="skip")
    assert (report.recordings, report.failed) == (1, 1)
    assert read(tmp_path / "out", "failed")[0]["file"] == "memory://bucket/a/gone.wav"

    def cut(*args: Any, **kwargs: Any) -> None:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(fsspec, "open", cut)
    with pytest.raises(AudioInputError, match="reset by peer.*Start again"):
        quiet(embedder, table, tmp_path / "cut", on_error="skip")
    assert not list((tmp_path / "cut" / "vectors").iterdir())


def of_files(files: list[str]) -> Iterator[dict[str, Any]]:
    for file in files:
        yield {"audio": {"path": file, "bytes": Path(file).read_bytes()}}


def test_a_stream_is_read_by_its_own_shards_and_resumed(embedder, folder: Path, tmp_path: Path, monkeypatch) -> None:
    files = [str(file) for file in sorted(folder.iterdir())]
    stream = IterableDataset.from_generator(of_files, gen_kwargs={"files": files})
    assert stream.num_shards == 7
    quiet(embedder, folder, tmp_path / "local")
    for rank in (0, 1):
        quiet(embedder, stream, tmp_path / "out", process=(rank, 2))
    rows = read(tmp_path / "out")
    for row in rows:
        row["file"] = Path(row["file"]).name
    assert_same(rows, read(tmp_path / "local"))

    monkeypatch.setattr(parts, "PART_ROWS", 3)
    whole = load_recordings(str(folder)).to_iterable_dataset(num_shards=2)
    quiet(embedder, whole, tmp_path / "parts", name_column="file_name")
    found = sorted((tmp_path / "parts" / "vectors").iterdir())
    assert len(found) == 4
    found[1].unlink()
    quiet(embedder, whole, tmp_path / "parts", name_column="file_name")
    assert sorted((tmp_path / "parts" / "vectors").iterdir()) == found
    assert_same(read(tmp_path / "parts"), read(tmp_path / "local"))
    with pytest.raises(ValueError, match="shard_size=2"):
        quiet(embedder, whole, tmp_path / "parts", shard_size=2)
    with pytest.raises(ShardSettingsError, match="shards was 2, now 7"):
        quiet(embedder, stream, tmp_path / "parts")


def test_streaming_datasets_read_an_object_store(embedder, folder: Path, bucket: str, tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    values = [{"path": file.name, "bytes": file.read_bytes()} for file in sorted(folder.iterdir())]
    for part in (0, 1):
        with system.open(f"/bucket/parquet/{part}.parquet", "wb") as file:
            pq.write_table(pa.table({"sound": values[part::2]}), file)
    stream = load_dataset("parquet", data_files="memory://bucket/parquet/*.parquet", split="train", streaming=True)
    quiet(embedder, stream, tmp_path / "out", audio_column="sound")
    quiet(embedder, folder, tmp_path / "local")
    assert_same(sorted(read(tmp_path / "out"), key=lambda row: (row["file"], row["start"])), read(tmp_path / "local"))
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["shards"] == 2 and settings["dataset"] == "parquet"


MANY = """
import resource, sys
import numpy as np
from datasets import IterableDataset
from uamix_hf import AudioEmbedder, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.embedding import embed_to_shards, parts

def clips(numbers):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 1600).astype(np.float32)
    for number in numbers:
        yield {"audio": {"array": wave, "sampling_rate": 16_000}, "id": str(number)}

class Wide(AudioEmbedder):
    embedding_size = 2048

    def embed(self, waves):  # costs nothing
        return np.ones((len(waves), 2048)), np.ones(len(waves))

parts.PART_ROWS = 200  # 1.6 MB
config = AudioMAEConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, max_length=64)
embedder = Wide(AudioMAEModel(config), AudioMAEFeatureExtractor(max_length=64))
peaks = []
for count in (400, int(sys.argv[2])):
    stream = IterableDataset.from_generator(clips, gen_kwargs={"numbers": range(count)})
    report = embed_to_shards(embedder, stream, f"{sys.argv[1]}/{count}", name_column="id", progress_bar=False)
    assert report.recordings == count
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_recordings(tmp_path: Path) -> None:
    count = 12_000  # vectors of 98 MB
    printed = run_code(MANY, tmp_path, tmp_path, count).well()
    assert float(printed.split()[-1]) < 30  # MB
    rows = sum(pq.read_metadata(file).num_rows for file in (tmp_path / str(count) / "vectors").iterdir())
    assert rows >= count
