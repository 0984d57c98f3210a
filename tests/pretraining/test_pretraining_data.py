"""What is trained on and what is held out, from a cache and from a stream; flags that make no sense together."""

import dataclasses
from pathlib import Path

import pytest
import soundfile
from datasets import Audio, Dataset
from toy_sounds import EXTRACTOR, tones

from uamix_hf import DataError
from uamix_hf.data import DataArguments, HeldOutArguments, compute_norm_stats, features
from uamix_hf.data.streaming import AudioStream, StreamingArguments
from uamix_hf.pretraining import PretrainingTrainer, pretraining_data

STREAM = StreamingArguments(streaming=True, shuffle_buffer=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve clips of three speakers."""
    (tmp_path / "sound").mkdir()
    lines = ["file_name,speaker,take"]
    for number, wave in enumerate(tones(12)[0]):
        soundfile.write(tmp_path / "sound" / f"{number}.wav", wave, 16_000)
        lines.append(f"{number}.wav,{'abc'[number % 3]},{number % 2}")
    (tmp_path / "sound" / "metadata.csv").write_text("\n".join(lines))
    return tmp_path / "sound"


@pytest.fixture
def load(folder, make_args, tmp_path: Path):
    def load(streaming=None, held_out=None, max_steps: int = 2, data=None, **arguments):
        data = data or DataArguments(train_dir=[str(folder)], cache_dir=str(tmp_path / "cache"))
        args = make_args(max_steps=max_steps, **arguments)
        rest = (streaming or StreamingArguments(), held_out or HeldOutArguments())
        return pretraining_data(data, *rest, args, EXTRACTOR, 64)

    return load


def sounds(rows) -> set[bytes]:
    return {row["features"].half().numpy().tobytes() for row in rows}


@pytest.mark.parametrize("held_out", [{"eval_where": ["speaker=b"]}, {"eval_fraction": 0.25}])
def test_a_stream_holds_out_the_clips_that_the_cache_would(load, held_out: dict) -> None:
    cached = load(held_out=HeldOutArguments(**held_out))
    streamed = load(STREAM, HeldOutArguments(**held_out))
    assert isinstance(streamed.train, AudioStream) and isinstance(streamed.held_out, Dataset)
    assert sounds(streamed.held_out) == sounds(cached.held_out)
    assert sounds(streamed.train.one_pass(0)) == sounds(cached.train)
    assert len(sounds(cached.train) | sounds(cached.held_out)) == 12
    assert not sounds(cached.train) & sounds(cached.held_out)


def test_processes_that_preprocess_do_so_for_what_a_stream_holds_out(load, folder, tmp_path, monkeypatch) -> None:
    processes, loader = [], features.ReadRecordings.loader
    monkeypatch.setattr(
        features.ReadRecordings, "loader", lambda self, count: (processes.append(count), loader(self, count))[1]
    )
    data = DataArguments([str(folder)], cache_dir=str(tmp_path / "cache"), preprocessing_num_workers=2)
    streamed = load(STREAM, HeldOutArguments(eval_where=["speaker=b"]), data=data)
    assert processes == [2] and len(streamed.held_out) == 4
    assert sounds(load(held_out=HeldOutArguments(eval_where=["speaker=b"]), data=data).held_out) == sounds(
        streamed.held_out
    )
    assert processes == [2, 2]


def test_statistics_of_a_stream_are_those_of_its_first_clips(load) -> None:
    data = load(STREAM)
    expected = compute_norm_stats(load().train, EXTRACTOR)
    assert compute_norm_stats(data.sample(), EXTRACTOR) == pytest.approx(expected, rel=1e-9)
    few = load(dataclasses.replace(STREAM, statistics_clips=3))
    rows = list(few.sample())
    assert len(rows) == 3 and sounds(rows) == sounds(few.sample())


def test_groups_are_held_out_whole_by_a_stream_too(load, folder: Path, tmp_path: Path) -> None:
    data = DataArguments(train_dir=[str(folder)], group_column="speaker", cache_dir=str(tmp_path / "cache"))
    streamed = load(STREAM, HeldOutArguments(eval_fraction=0.4), data=data)
    assert len(streamed.held_out) == 4 and len(sounds(streamed.train.one_pass(0))) == 8
    with pytest.raises(DataError, match="both sides"):
        load(STREAM, HeldOutArguments(eval_where=["take=1"]), data=data)


@pytest.mark.slow
def test_a_streamed_dataset_is_evaluated_on_another_split_of_it(load, folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "clips" / "data"
    made.mkdir(parents=True)
    for split, rows in (("train", range(8)), ("validation", range(8, 12))):
        audio = [{"bytes": (folder / f"{row}.wav").read_bytes(), "path": f"{row}.wav"} for row in rows]
        table = Dataset.from_dict({"audio": audio}).cast_column("audio", Audio())
        table.to_parquet(made / f"{split}-00000-of-00001.parquet")
    data = DataArguments(dataset_name=str(made.parent), cache_dir=str(tmp_path / "cache"))
    streamed = load(dataclasses.replace(STREAM, eval_split="validation"), data=data)
    assert len(streamed.held_out) == 4 and len(sounds(streamed.train.one_pass(0))) == 8
    assert not sounds(streamed.train.one_pass(0)) & sounds(streamed.held_out)
    with pytest.raises(DataError, match="--eval_split"):
        load(STREAM, HeldOutArguments(eval_fraction=0.5), data=data)


def test_a_stream_trains_without_lengths_and_is_evaluated(load, make_model, make_args) -> None:
    data = load(STREAM, HeldOutArguments(eval_where=["speaker=b"]))
    args = make_args(max_steps=5, eval_strategy="steps", eval_steps=5)
    trainer = PretrainingTrainer(make_model(), args, data.train, EXTRACTOR, data.held_out)
    trainer.train()
    assert trainer.state.global_step == 5  # more clips than a pass has
    assert any("eval_loss" in entry for entry in trainer.state.log_history)


def test_a_model_that_could_learn_from_nothing_is_not_trained(load, make_model, make_args, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    for number in range(4):
        (tmp_path / "broken" / f"{number}.wav").write_bytes(b"no sound")
    data = load(STREAM, data=DataArguments([str(tmp_path / "broken")], on_error="skip"))
    args = make_args(max_steps=2, dataloader_num_workers=2)
    with pytest.raises(DataError, match="Not one recording"):
        PretrainingTrainer(make_model(), args, data.train, EXTRACTOR).train()


@pytest.mark.parametrize(
    "flags, error, message",
    [
        ({"streaming": STREAM, "max_steps": -1}, ValueError, "--max_steps"),
        ({"data": DataArguments(["a"], label_column="label")}, ValueError, "label_column=label: pretraining"),
        ({"data": DataArguments(["a"], group_column="speaker")}, ValueError, "--eval_where or --eval_fraction"),
        ({"data": DataArguments(dataset_name="a", group_column="b"), "streaming": STREAM}, ValueError, "--eval_where"),
        ({"streaming": STREAM, "save_strategy": "epoch"}, ValueError, "--save_strategy steps"),
        ({"streaming": STREAM, "eval_strategy": "epoch"}, ValueError, "--eval_strategy steps"),
        ({"streaming": StreamingArguments(shuffle_buffer=4)}, ValueError, "shuffle_buffer: without effect"),
        (
            {"data": DataArguments(["a"], preprocessing_num_workers=2), "streaming": STREAM},
            ValueError,
            "preprocessing_num_workers=2: of a stream nothing is cached.*--dataloader_num_workers",
        ),
        ({"ignore_data_skip": True}, ValueError, "ignore_data_skip is for streams"),
        ({"streaming": StreamingArguments(eval_split="test")}, ValueError, "eval_split is for streamed"),
        ({"streaming": dataclasses.replace(STREAM, eval_split="test")}, ValueError, "eval_split is for streamed"),
        ({"held_out": HeldOutArguments(eval_where=["speaker=z"])}, DataError, "No row has speaker=z"),
        ({"held_out": HeldOutArguments(eval_where=["age=3"])}, DataError, "no column 'age'"),
        ({"held_out": HeldOutArguments(eval_where=["speaker=a,b,c"])}, DataError, "none is left"),
        ({"data": DataArguments(train_dir=["/nowhere/at/all"])}, DataError, "is not a folder"),
        ({"data": DataArguments(train_dir=["/nowhere/at/all"]), "streaming": STREAM}, DataError, "is not a folder"),
        ({"data": DataArguments()}, DataError, "Give either"),
        ({"data": DataArguments(), "streaming": STREAM}, DataError, "Give either"),
        ({"data": DataArguments(train_dir=["a"], dataset_name="b"), "streaming": STREAM}, DataError, "Give either"),
    ],
)
def test_flags_that_cannot_be_followed_are_errors_before_training(load, flags: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        load(**flags)
