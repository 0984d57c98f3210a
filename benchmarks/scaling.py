"""How time grows with seconds of audio, clips, tokens and processes, and memory with the length of a recording.

Exponents are slopes of log time over log size: 1 is in proportion; of processes, -1 is without loss. Encoders have the
base preset's hidden size and 2 layers, or 1 where a batch of tuning is shared by processes; a recording is embedded
with the tiny preset, in batches of AudioEmbedder's default size, of which the short one fills a fifth. Peak memory is
read from /proc (Linux).

    python benchmarks/scaling.py
"""

import multiprocessing
import statistics
import tempfile
import textwrap
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.distributed as dist
from compare import BenchmarkArguments, Row, clock, interleaved, parse, report
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter
from torch.nn.parallel import DistributedDataParallel
from training_steps import SMALL_ENCODER, describe, make_clips, make_encoder, make_model, training_step

from uamix_hf import AudioEmbedder, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel

RATE = 16_000
MINUTE = 60 * RATE
PROCESSES = (1, 2)
FRAMES_PER_TOKEN = 2  # patches of 16 frames, 8 of them above each other
LAYERS, TUNED_LAYERS = 2, 1
CLIPS, CLIP_SECONDS = 4, 5  # of a batch that processes share


@dataclass(frozen=True)
class Sizes:
    seconds: tuple[float, ...]
    clips: tuple[int, ...]
    tokens: tuple[int, ...]
    minutes: tuple[float, float]


SIZES = Sizes(
    seconds=(1.28, 2.56, 5.12, 10.24, 20.48),
    clips=(1, 2, 4, 8),
    tokens=(128, 256, 512, 1024, 2048),
    minutes=(1, 60),
)
SMALL = Sizes(
    seconds=(0.32, 0.64, 1.28),
    clips=(1, 2),
    tokens=(16, 32),
    minutes=(0.2, 0.4),
)


@dataclass(frozen=True)
class Curve:
    """
    Args:
        title: What is done. unit: Of the sizes. seconds: Of every round, by size, smallest first.
    """

    title: str
    unit: str
    seconds: dict[float, list[float]]

    def exponents(self) -> list[float]:
        """Slope of each round."""
        rounds = np.log(np.array(list(self.seconds.values())))  # (sizes, rounds)
        return np.polyfit(np.log(list(self.seconds)), rounds, 1)[0].tolist()

    def medians(self) -> list[float]:
        return [statistics.median(rounds) for rounds in self.seconds.values()]

    def row(self) -> Row:
        sizes, medians, exponents = list(self.seconds), self.medians(), self.exponents()
        ends = [f"{1000 * medians[place]:.4g} ms for {sizes[place]:g} {self.unit}" for place in (-1, 0)]
        return Row(
            f"exponent of {self.unit}: {self.title}",
            *ends,
            statistics.median(exponents),
            min(exponents),
            max(exponents),
        )


def timed(title: str, unit: str, works: dict[float, Callable[[], object]], repeats: int) -> Curve:
    rounds = interleaved({str(size): work for size, work in works.items()}, repeats)
    return Curve(title, unit, dict(zip(works, rounds.values(), strict=True)))


def noise(seconds: float) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE), np.float32)


def embedding_curves(args: BenchmarkArguments, sizes: Sizes) -> list[Curve]:
    """Waveforms to vectors: of one clip of several lengths, windows included, and of several clips."""
    encoder = make_encoder(args.small, LAYERS)
    embedder = AudioEmbedder(encoder, AudioMAEFeatureExtractor())
    longest, clips = noise(max(sizes.seconds)), [noise(CLIP_SECONDS)] * max(sizes.clips)

    def embed(waves: list[np.ndarray]) -> Callable[[], object]:
        return lambda: embedder.encode(waves, progress_bar=False)

    by_seconds = {seconds: embed([longest[: round(seconds * RATE)]]) for seconds in sizes.seconds}
    by_clips: dict[float, Callable[[], object]] = {count: embed(clips[:count]) for count in sizes.clips}
    size = f"hidden size {encoder.config.hidden_size}, {LAYERS} layers"
    return [
        timed(f"one clip embedded, {size}", "s of audio", by_seconds, args.repeats),
        timed(f"clips of {CLIP_SECONDS} s embedded, {size}", "clips", by_clips, args.repeats),
    ]


def token_curve(args: BenchmarkArguments, sizes: Sizes) -> Curve:
    """The encoder alone, its table of positions long enough for all."""
    log_mel = torch.randn(1, FRAMES_PER_TOKEN * max(sizes.tokens), 128)
    narrow = SMALL_ENCODER if args.small else {}
    config = AudioMAEConfig.preset("base", num_hidden_layers=LAYERS, max_length=log_mel.shape[1], **narrow)
    model = AudioMAEModel(config).eval()

    def encode(tokens: int) -> Callable[[], object]:
        return lambda: model(log_mel[:, : FRAMES_PER_TOKEN * tokens])

    title = f"encoder without gradient, hidden size {config.hidden_size}, {LAYERS} layers"
    with torch.inference_mode():
        return timed(title, "tokens", {count: encode(count) for count in sizes.tokens}, args.repeats)


def tune_together(rank: int, world: int, small: bool, repeats: int, folder: str) -> list[float]:
    """Seconds of steps on a batch that `world` processes share, each on one thread; the first is not timed."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting-of-{world}"
    dist.init_process_group("gloo", meeting, rank=rank, world_size=world, timeout=timedelta(minutes=2))
    try:
        return shared_steps(rank, world, small, repeats)
    finally:
        # After the model is gone: as the last owner of the group it would wait for a thread that waits for Python.
        dist.destroy_process_group()


def shared_steps(rank: int, world: int, small: bool, repeats: int) -> list[float]:
    uamix = make_model(small, TUNED_LAYERS, min_crop=1)  # views as long as the clip: every step does the same work
    model = DistributedDataParallel(uamix, broadcast_buffers=False)  # as UaMixTrainingArguments has it
    batch = {name: rows[rank::world] for name, rows in make_clips(CLIPS, CLIP_SECONDS).items()}
    step = training_step(uamix, lambda batch: model(**batch).loss)

    def together() -> None:
        step(batch)
        dist.barrier()

    together()
    return [clock(together) for _ in range(repeats)]


def processes() -> Any:
    """How processes are started: from one that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["uamix_hf.tuning"])
    return context


def process_curve(args: BenchmarkArguments, folder: Path) -> Curve:
    """Steps of tuning on the same batch, however many processes share it."""
    seconds: dict[float, list[float]] = {}
    for world in PROCESSES:
        with ProcessPoolExecutor(world, processes()) as pool:
            tasks = [
                pool.submit(tune_together, rank, world, args.small, args.repeats, str(folder)) for rank in range(world)
            ]
            seconds[world] = [task.result() for task in tasks][0]
    case = describe(make_model(args.small, TUNED_LAYERS), CLIPS, CLIP_SECONDS)
    return Curve(f"tuning step, {case}, a thread each", "processes", seconds)


def write_noise(path: Path, minutes: float) -> None:
    """A FLAC file, written minute by minute: an hour of samples would need a gigabyte here."""
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for left in range(round(minutes * MINUTE), 0, -MINUTE):
            file.write(0.1 * rng.standard_normal(min(left, MINUTE), np.float32))


def embed_file(model: str, recording: str, threads: int) -> float:
    """Peak memory in MiB of this process after it has embedded a file."""
    torch.set_num_threads(threads)
    AudioEmbedder.from_pretrained(model, device="cpu").encode(recording)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    # Not resource.getrusage: its peak is inherited from the process that started this one.
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def memory_row(args: BenchmarkArguments, sizes: Sizes, folder: Path) -> Row:
    model = folder / "encoder"
    torch.manual_seed(0)
    AudioMAEModel(AudioMAEConfig.preset("tiny")).save_pretrained(model)
    AudioMAEFeatureExtractor().save_pretrained(model)
    peaks = []
    for minutes in sizes.minutes:
        recording = folder / f"{minutes:g}.flac"
        write_noise(recording, minutes)
        with ProcessPoolExecutor(1, processes()) as pool:
            peaks.append(pool.submit(embed_file, str(model), str(recording), args.threads).result())
    short, long = peaks
    ratio = long / short
    texts = [f"{peak:,.0f} MiB for {minutes:g} min" for peak, minutes in zip(peaks, sizes.minutes, strict=True)]
    return Row(
        "peak memory of embedding one file, tiny preset",
        texts[1],
        texts[0],
        ratio,
        ratio,
        ratio,
        1.5,
        at_least=False,
    )


def plot(curves: list[Curve], path: Path) -> None:
    """Medians, least and largest of all rounds, and the line of the exponent, a panel for each curve."""
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    for axis, curve in zip(figure.subplots(2, 2).flat, curves, strict=True):
        sizes, medians = np.array(list(curve.seconds)), 1000 * np.array(curve.medians())
        rounds = 1000 * np.array(list(curve.seconds.values()))
        spread = [medians - rounds.min(axis=1), rounds.max(axis=1) - medians]
        axis.errorbar(sizes, medians, spread, fmt="o", color="#0072B2", capsize=3)
        slope, offset = np.polyfit(np.log(sizes), np.log(medians), 1)
        axis.plot(sizes, np.exp(offset) * sizes**slope, color="#D55E00", label=f"exponent {slope:.2f}")
        axis.set(xscale="log", yscale="log", xlabel=curve.unit, ylabel="ms")
        axis.set_title(textwrap.fill(curve.title, 48), fontsize=9)
        axis.set_xticks(sizes, labels=[f"{size:g}" for size in sizes])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.yaxis.set_minor_locator(NullLocator())
        axis.grid(color="0.9")
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    args = parse()
    sizes = SMALL if args.small else SIZES
    with tempfile.TemporaryDirectory() as folder:
        curves = [*embedding_curves(args, sizes), token_curve(args, sizes), process_curve(args, Path(folder))]
        rows = [curve.row() for curve in curves] + [memory_row(args, sizes, Path(folder))]
    plot(curves, Path(args.output_dir) / "scaling.png")
    report("scaling", "itself at other sizes", rows, args)


if __name__ == "__main__":
    main()
