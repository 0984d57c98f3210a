"""Streamed clips are those that the cache would hold, each once a pass, in an order of the seed, shared out fairly."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from datasets import Audio, ClassLabel, Dataset, interleave_datasets
from hub_server import HubServer
from torch.utils.data import DataLoader
from toy_sounds import EXTRACTOR

from uamix_hf import AudioInputError, DataError
from uamix_hf.data import FeatureCollator, cached_features, load_recordings
from uamix_hf.data.streaming import AudioStream, StreamingArguments, folder_rows, hub_rows, shuffled
from uamix_hf.data.where import StreamConditions

WINDOW, REST, RATE = 64, 30, 16_000
# Of each recording; the first is shorter than a rest may be, the second has no window but that rest is long enough.
FRAMES = (20, 64 + 30, 64 + 29, 50, 3 * 64, 128 + 63, 40)


def write(path: Path, frames: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(seed).uniform(-0.5, 0.5, 400 + 160 * (frames - 1))
    soundfile.write(path, wave, RATE, subtype="PCM_16")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, frames in enumerate(FRAMES):
        write(tmp_path / "sound" / f"{number}.wav", frames, number)
    return tmp_path / "sound"


def stream(rows, seed: int = 0, rank: int = 0, world: int = 1, on_error: str = "raise", buffer: int = 4) -> AudioStream:
    args = StreamingArguments(streaming=True, shuffle_buffer=buffer, min_remainder_frames=REST)
    return AudioStream(rows, EXTRACTOR, WINDOW, args, on_error, seed, rank, world)


def of_folder(folder: Path, seed: int = 0, **options) -> AudioStream:
    return stream(folder_rows(load_recordings(str(folder)), seed), seed, **options)


def of_dataset(name: str, where: tuple[str, ...] = (), column: str = "sound"):
    return hub_rows(name, "train", column, StreamConditions(where))


def ids(clips) -> list[int]:
    return [clip["sample_id"] for clip in clips]


def test_clips_are_the_windows_of_the_cached_log_mels(folder: Path, tmp_path: Path) -> None:
    cached = cached_features(load_recordings(str(folder)), EXTRACTOR, cache_dir=tmp_path / "cache").dataset
    expected = []
    for row in cached:
        whole = [row["features"][start : start + WINDOW] for start in range(0, len(row["features"]), WINDOW)]
        expected += [part for part in whole if part is whole[0] or len(part) >= REST]
    assert len(expected) == 1 + 2 + 1 + 1 + 3 + 3 + 1
    clips = list(of_folder(folder).one_pass(0))
    assert len(clips) == len(expected)
    for clip in clips:
        assert clip["features"].dtype == torch.float16
        assert clip["features"].untyped_storage().nbytes() == clip["features"].nbytes  # not the whole recording's
        same = [part for part in expected if torch.equal(part, clip["features"].float())]
        assert len(same) == 1


def test_ids_say_where_a_clip_is_from_whatever_the_order_and_the_place_of_the_folder(folder, tmp_path: Path) -> None:
    def named(clips) -> dict[int, bytes]:
        return {clip["sample_id"]: clip["features"].numpy().tobytes() for clip in clips}

    first = named(of_folder(folder).one_pass(0))
    assert len(first) == 12 and all(0 <= sample < 2**63 for sample in first)
    shutil.copytree(folder, tmp_path / "elsewhere" / "other")
    assert named(of_folder(tmp_path / "elsewhere" / "other", seed=5).one_pass(3)) == first
    (shares,) = ([named(of_folder(folder, rank=rank, world=2).one_pass(0)) for rank in range(2)],)
    assert shares[0] | shares[1] == first


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_processes_share_every_pass_without_a_clip_in_common(folder: Path, world: int) -> None:
    whole = set(ids(of_folder(folder).one_pass(0)))
    streams = [of_folder(folder, rank=rank, world=world) for rank in range(world)]
    for number in range(3):
        parts = [ids(part.one_pass(number)) for part in streams]
        assert all(parts) and Counter(sum(parts, [])) == Counter(whole)


def test_each_pass_gives_every_clip_once_in_an_order_of_its_own_that_the_seed_decides(folder: Path) -> None:
    def passes(seed: int) -> list[list[int]]:
        drawn = ids(islice(of_folder(folder, seed=seed), 36))
        return [drawn[start : start + 12] for start in (0, 12, 24)]

    three = passes(0)
    assert all(sorted(part) == sorted(three[0]) and len(set(part)) == 12 for part in three)
    assert len({tuple(part) for part in three}) == 3
    assert passes(0) == three != passes(1)


def test_each_pass_draws_anew_for_the_same_clip_and_a_second_run_alike(folder: Path) -> None:
    def passes(workers: int, count: int) -> list[dict[int, torch.Tensor]]:
        collator = FeatureCollator(EXTRACTOR, WINDOW, normalize=False, roll=True, gain_alpha=10.0)
        loader = DataLoader(of_folder(folder), batch_size=1, num_workers=workers, collate_fn=collator)
        batches = list(islice(loader, 12 * count))
        parts = [batches[start : start + 12] for start in range(0, 12 * count, 12)]
        return [{int(batch["sample_id"]): batch["input_values"] for batch in part} for part in parts]

    one, two = passes(0, 2)
    assert one.keys() == two.keys() and not any(torch.equal(values, two[sample]) for sample, values in one.items())
    (again,) = passes(1, 1)
    assert all(torch.equal(values, again[sample]) for sample, values in one.items())


def test_the_buffer_gives_everything_once_and_all_orders_alike() -> None:
    assert list(shuffled(range(100), 1, np.random.default_rng(0))) == list(range(100))
    far = list(shuffled(range(100), 10, np.random.default_rng(0)))
    assert sorted(far) == list(range(100)) != far
    # Nothing comes before it could be in the buffer.
    assert all(place >= value - 10 for place, value in enumerate(far))
    orders = Counter(tuple(shuffled(range(3), 5, np.random.default_rng(seed))) for seed in range(600))
    assert len(orders) == 6 and min(orders.values()) > 60  # 100 expected, standard deviation 9


def test_workers_of_a_loader_share_every_pass_in_an_order_of_the_seed(folder: Path) -> None:
    whole = Counter(ids(of_folder(folder).one_pass(0)))

    def drawn() -> list[int]:
        loader = DataLoader(of_folder(folder), batch_size=None, num_workers=2)
        return [int(clip["sample_id"]) for clip in islice(loader, 6 * len(whole))]

    first = drawn()
    assert set(first) == whole.keys()  # workers differ in pace, so that one may be a pass ahead
    assert drawn() == first


# --- what cannot be read


def test_an_unreadable_recording_stops_the_stream_and_is_named(folder: Path) -> None:
    (folder / "broken.wav").write_bytes(b"no sound")
    with pytest.raises(AudioInputError, match=r"broken\.wav"):
        list(islice(of_folder(folder), 40))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_recordings_are_named_and_counted_once(folder: Path, workers: int, caplog) -> None:
    for name in ("broken", "empty"):
        (folder / f"{name}.wav").write_bytes(b"no sound" if name == "broken" else b"")
    part = of_folder(folder, on_error="skip")
    with caplog.at_level(logging.WARNING, "uamix_hf.data.streaming"):
        drawn = list(islice(DataLoader(part, batch_size=None, num_workers=workers), 40))
    assert len({int(clip["sample_id"]) for clip in drawn}) == 12 and int(part.skipped) == 2
    if workers == 0:
        assert sum("Left out" in record.message for record in caplog.records) == 2
        assert "broken.wav" in caplog.text and "empty.wav" in caplog.text


def test_a_stream_of_nothing_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match="Not one recording"):
        next(iter(of_folder(tmp_path, on_error="skip")))


@pytest.mark.parametrize("field", ["shuffle_buffer", "min_remainder_frames", "statistics_clips"])
def test_sizes_of_nothing_are_errors(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=0"):
        StreamingArguments(**{field: 0})


# --- datasets of the Hub's kind


def parquet(folder: Path, sounds: list[Path], labels: list[int], **columns) -> Path:
    """A dataset in a folder, in two files, as the Hub stores one: sound as bytes."""
    audio = [{"bytes": path.read_bytes(), "path": path.name} for path in sounds]
    table = Dataset.from_dict({"sound": audio, "label": labels, **columns})
    table = table.cast_column("sound", Audio(decode=False)).cast_column("label", ClassLabel(names=["cat", "dog"]))
    (folder / "data").mkdir(parents=True)
    table = table.cast_column("sound", Audio())  # as published: to be decoded, by torchcodec, unless it is turned off
    for part in range(2):
        table.shard(2, part).to_parquet(folder / "data" / f"train-0000{part}-of-00002.parquet")
    return folder


def test_a_dataset_is_streamed_with_conditions_and_shared_out(folder: Path, tmp_path: Path) -> None:
    sounds = sorted(folder.glob("*.wav"))
    name = str(parquet(tmp_path / "clips", sounds, [0, 1, 0, 1, 0, 1, 0]))
    dogs = [soundfile.read(sounds[row], dtype="float32")[0] for row in (1, 3, 5)]
    expected = {mel[:WINDOW].half().numpy().tobytes() for mel in EXTRACTOR.log_mels(dogs)}
    clips = list(stream(of_dataset(name, ("label=dog",))).one_pass(0))
    assert len(clips) == 2 + 1 + 3 and expected <= {clip["features"].numpy().tobytes() for clip in clips}
    assert len(set(ids(clips))) == 6
    for world in (2, 3):  # as many as files, and more
        parts = [
            ids(stream(of_dataset(name, ("label=dog",)), rank=rank, world=world).one_pass(1)) for rank in range(world)
        ]
        assert Counter(sum(parts, [])) == Counter(ids(clips))


@pytest.mark.slow
def test_several_datasets_come_in_turns_and_none_is_cut_short(folder: Path, tmp_path: Path) -> None:
    sounds = [folder / f"{number}.wav" for number in (0, 3, 6)]  # a clip each
    short = str(parquet(tmp_path / "short", sounds[:2], [0, 0]))
    long = str(parquet(tmp_path / "long", [sounds[2]] * 2 + sounds[:2], [1] * 4))
    alone = [set(ids(stream(of_dataset(name)).one_pass(0))) for name in (short, long)]
    assert not alone[0] & alone[1]  # the same sound of two datasets is two clips
    rows = interleave_datasets(
        [of_dataset(name) for name in (short, long)],
        stopping_strategy="all_exhausted_without_replacement",
    )
    drawn = ids(stream(rows).one_pass(0))
    assert len(drawn) == 6 and [sample in alone[0] for sample in drawn[:4]] == [True, False] * 2


def test_columns_that_are_not_there_or_no_sound_are_errors_before_anything_is_read(folder, tmp_path: Path) -> None:
    name = str(parquet(tmp_path / "clips", sorted(folder.glob("*.wav"))[:2], [0, 1]))
    for column, where, message in (
        ("audio", [], "no column 'audio', only sound, label"),
        ("label", [], "'label' of .* holds no audio"),
        ("sound", ["species=dog"], "no column 'species'"),
        ("sound", ["dog"], "not of the form"),
    ):
        with pytest.raises(DataError, match=message):
            hub_rows(name, "train", column, StreamConditions(where))


def test_a_dataset_cannot_choose_which_files_are_read(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret.wav"
    shutil.copy(folder / "0.wav", outside)
    foreign = [str(outside), f"file://{outside}", "https://example.com/a.wav", "hf://datasets/other/one@main/a.wav",
               f"simplecache::file://{outside}"]  # fmt: skip
    for number, path in enumerate(foreign):
        made = tmp_path / f"clips{number}"
        (made / "data").mkdir(parents=True)
        table = Dataset.from_dict({"audio": [{"bytes": None, "path": path}]}).cast_column("audio", Audio())
        pq.write_table(
            table.data.table, made / "data" / "train-00000-of-00001.parquet"
        )  # datasets would embed the file
        with pytest.raises(DataError, match="not a file of the dataset"):
            next(iter(stream(of_dataset(str(made), column="audio"))))


PULL = """
import json, sys
from itertools import islice
from toy_sounds import EXTRACTOR
from uamix_hf.data.streaming import AudioStream, StreamingArguments, hub_rows
from uamix_hf.data.where import StreamConditions

found = {}
for name, column in (("user/table", "sound"), ("user/files", "audio")):
    rows = hub_rows(name, "train", column, StreamConditions([]))
    rows = AudioStream(rows, EXTRACTOR, 64, StreamingArguments(streaming=True))
    found[name] = [clip["features"].float().sum().item() for clip in rows.one_pass(0)]
json.dump(found, open(sys.argv[1], "w"))
"""


def test_datasets_stream_from_a_hub_as_tables_and_as_files(folder: Path, tmp_path: Path) -> None:
    sounds = [folder / f"{number}.wav" for number in (0, 3, 6)]
    table = parquet(tmp_path / "clips", sounds, [0, 1, 0])
    waves = [soundfile.read(path, dtype="float32")[0] for path in sounds]
    expected = sorted(mel.half().float().sum().item() for mel in EXTRACTOR.log_mels(waves))
    with HubServer() as hub:
        tables = {str(path.relative_to(table)): path.read_bytes() for path in table.rglob("*.parquet")}
        hub.add("user/table", tables, repo_type="dataset")
        hub.add("user/files", {f"train/{path.name}": path.read_bytes() for path in sounds}, repo_type="dataset")
        environment = os.environ | hub.environment(tmp_path / "home")
        environment |= {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-c", PULL, str(tmp_path / "found.json")]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert sorted(found["user/table"]) == pytest.approx(expected) == sorted(found["user/files"])
    assert not list((tmp_path / "cache").rglob("*.arrow"))


# --- values that no row has


def test_a_value_that_no_class_has_is_an_error_before_anything_is_read(folder: Path, tmp_path: Path) -> None:
    one = str(parquet(tmp_path / "one", [folder / "0.wav"] * 2, [0, 1]))
    conditions = StreamConditions(["label=dog, bird"])
    rows = hub_rows(one, "train", "sound", conditions)
    with pytest.raises(DataError, match="No row has label=bird, as in label=dog, bird; label is cat, dog"):
        AudioStream(rows, EXTRACTOR, WINDOW, StreamingArguments(), conditions=conditions)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_value_that_no_row_had_is_named_after_the_first_pass(folder: Path, tmp_path: Path, workers: int) -> None:
    sounds = [folder / f"{number}.wav" for number in (0, 3, 6)] * 2
    name = str(
        parquet(tmp_path / "one", sounds, [0] * 6, fold=[1, 2, 1, 3, 1, 1], place=["a", None, " b", "b", "a", ""])
    )
    conditions = StreamConditions(["fold=1, 3, 22", "place=a,b,c"])
    part = AudioStream(
        hub_rows(name, "train", "sound", conditions), EXTRACTOR, WINDOW, StreamingArguments(), conditions=conditions
    )
    loader = DataLoader(part, batch_size=None, num_workers=workers)
    assert len({int(sample) for sample in ids(islice(loader, 40))}) == 3 and conditions.unmet() == [
        "fold=22",
        "place=c",
    ]


def test_the_warning_comes_once_the_last_worker_has_seen_its_share(folder: Path, tmp_path: Path, caplog) -> None:
    name = str(parquet(tmp_path / "one", [folder / f"{number}.wav" for number in (0, 3)], [0, 0], fold=[1, 2]))
    conditions = StreamConditions(["fold=1,2,3"])
    part = AudioStream(
        hub_rows(name, "train", "sound", conditions), EXTRACTOR, WINDOW, StreamingArguments(), conditions=conditions
    )
    clips = iter(part)
    assert len(set(ids(islice(clips, 2)))) == 2 and not caplog.records
    next(clips)
    assert [record.getMessage() for record in caplog.records] == [
        "No row that this process has read has fold=3, of --where."
    ]


# --- streams in which nothing can be read


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_nothing_that_can_be_read_is_an_error_with_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match="Not one recording"):
        list(islice(DataLoader(of_folder(tmp_path, on_error="skip"), batch_size=None, num_workers=workers), 4))


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_workers_without_a_readable_recording_leave_the_others_to_it(tmp_path: Path, workers: int) -> None:
    write(tmp_path / "a.wav", 40, 0)
    (tmp_path / "b.wav").write_bytes(b"no sound")
    part = of_folder(tmp_path, on_error="skip")
    drawn = list(islice(DataLoader(part, batch_size=None, num_workers=workers), 20))
    assert len(drawn) == 20 and len({int(clip["sample_id"]) for clip in drawn}) == 1 and int(part.skipped) == 1


def test_a_process_whose_share_cannot_be_read_stops_and_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 40, 0)
    (tmp_path / "b.wav").write_bytes(b"no sound")
    found = []
    for rank in range(2):
        try:
            found.append(next(iter(of_folder(tmp_path, on_error="skip", rank=rank, world=2))) is not None)
        except DataError:
            found.append(False)
    assert sorted(found) == [False, True]


def test_recordings_that_vanish_are_an_error_in_a_later_pass(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 40, 0)
    clips = iter(of_folder(tmp_path, on_error="skip"))
    next(clips)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(DataError, match="Not one recording could be used in pass 2"):
        next(clips)
