"""Tuning from files against tuning from memory: what reading, decoding and log-mels cost.

The same steps, at the default recipe and base preset's hidden size with 2 layers, on FLAC files in the package's own
way (`prepare` with its cache, the trainer's loader) and on the same batches already in memory. A first epoch decodes
files and computes log-mels, a second reads the cache; files of either kind are in the system's memory, not read from a
disk.

    python benchmarks/pipeline.py
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from compare import BenchmarkArguments, Row, interleaved, parse, ratio_row, report
from datasets import Dataset
from training_steps import make_model, training_step

from uamix_hf import AudioMAEFeatureExtractor, UaMixForContrastiveTuning, UaMixTrainingArguments
from uamix_hf.data import DataArguments, prepare
from uamix_hf.tuning import StageTrainer

FILE_RATE = 44_100
LAYERS = 2


@dataclass(frozen=True)
class Sizes:
    clips: int
    batch_size: int
    seconds: tuple[float, float]  # shortest and longest clip


SIZES = Sizes(clips=12, batch_size=4, seconds=(1.0, 5.0))
SMALL = Sizes(clips=6, batch_size=2, seconds=(0.5, 1.0))


@dataclass(frozen=True)
class Epoch:
    """Loss of each step, and seconds: in all, and of those that steps waited for their batch."""

    losses: list[float]
    seconds: float
    waited: float


def write_recordings(folder: Path, clips: int, shortest: float, longest: float) -> None:
    """FLAC files of tones in noise, their seconds spread evenly from `shortest` to `longest`."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, seconds in enumerate(np.linspace(shortest, longest, clips)):
        time_axis = np.arange(round(seconds * FILE_RATE)) / FILE_RATE
        tone = np.sin(2 * np.pi * rng.uniform(200, 4000) * time_axis) * np.exp(-time_axis)
        wave = 0.3 * tone + 0.05 * rng.standard_normal(len(time_axis))
        soundfile.write(folder / f"{number}.flac", wave, FILE_RATE)


def read_recordings(folder: Path) -> Dataset:
    """Log-mels of the files, decoded now: their cache is a new folder."""
    cache = tempfile.mkdtemp(dir=folder.parent)
    return prepare(DataArguments([str(folder)], cache_dir=cache), AudioMAEFeatureExtractor()).dataset


def make_trainer(model: UaMixForContrastiveTuning, dataset: Dataset, folder: Path, **arguments: Any) -> StageTrainer:
    """Trains all layers, on a GPU if there is one; keywords are training arguments."""
    fixed: dict[str, Any] = {"recipe": "plastic", "report_to": "none", "use_cpu": not torch.cuda.is_available()}
    args = UaMixTrainingArguments(str(folder), **fixed, **arguments)
    return StageTrainer(model, args, dataset, AudioMAEFeatureExtractor())


def run_epoch(step: Callable[[Any], float], batches: Iterable[Any]) -> Epoch:
    """A step for each batch; equal batches are cropped and mixed alike, whoever brings them.

    Args:
        step: Returns the loss, for which it waits, also where a GPU computes it.
    """
    losses, waited = [], 0.0
    start = asked = time.perf_counter()
    for number, batch in enumerate(batches):
        waited += time.perf_counter() - asked
        torch.manual_seed(number)
        losses.append(step(batch))
        asked = time.perf_counter()
    end = time.perf_counter()
    return Epoch(losses, end - start, waited + end - asked)


def loader_of(trainer: StageTrainer, dataset: Dataset) -> Any:
    """The trainer's own loader of these rows."""
    trainer.train_dataset = dataset
    return trainer.get_train_dataloader()


def measure(args: BenchmarkArguments, folder: Path) -> list[Row]:
    sizes = SMALL if args.small else SIZES
    recordings = folder / "recordings"
    write_recordings(recordings, sizes.clips, *sizes.seconds)
    dataset = read_recordings(recordings)
    model = make_model(args.small, LAYERS)
    step = training_step(model, lambda batch: model(**batch).loss)
    trainer = make_trainer(model, dataset, folder / "run", per_device_train_batch_size=sizes.batch_size)
    loader = loader_of(trainer, dataset)
    memory = list(loader)
    waits = []

    def second() -> None:
        loader.set_epoch(0)  # the batches of `memory`: an epoch later their order is another
        epoch = run_epoch(step, loader)
        waits.append((epoch.waited / epoch.seconds, epoch.waited / len(memory), epoch.seconds / len(memory)))

    seconds = interleaved(
        {
            "second": second,
            "memory": lambda: run_epoch(step, memory),
            "first": lambda: run_epoch(step, loader_of(trainer, read_recordings(recordings))),
        },
        args.repeats,
    )
    shares, waiting, steps = zip(*waits[1:], strict=True)  # the first round warms up
    (shortest, longest), width = sizes.seconds, model.encoder.config.hidden_size
    what = f"{sizes.clips} clips of {shortest:g} to {longest:g} s, hidden size {width}, {LAYERS} layers"
    sound = sizes.clips * (shortest + longest) / 2

    def compared(name: str, case: str, bar: float | None = None) -> Row:
        return ratio_row(case, {side: seconds[side] for side in (name, "memory")}, sound, "s of audio", bar)

    return [
        compared("second", f"second epoch, {what}", 0.95),
        compared("first", f"first epoch, which decodes, {what}"),
        Row(
            "fraction of time waiting for data, second epoch",
            f"{1000 * statistics.median(waiting):.3g} ms a batch",
            f"{1000 * statistics.median(steps):.4g} ms a step",
            statistics.median(shares),
            min(shares),
            max(shares),
            0.05,
            at_least=False,
        ),
    ]


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        report("pipeline", "the same batches in memory", measure(args, Path(folder)), args)


if __name__ == "__main__":
    main()
