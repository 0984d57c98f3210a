"""Speed on a GPU, in one run: encoder, steps of pretraining and of tuning in bfloat16, compiled and not, as fractions
of the rate of a large matrix product measured in turns with them; log-mels computed on the device; waiting for data.

Base preset, batches of 64 clips of 10 s, weights in float32 under autocast. Operations are counted as in
utilisation.py; tuning is our default recipe with views as long as the clip. Ends with a section for
docs/performance.md. `--small` runs on a CPU as well, to test the script: those are not results of a GPU.

    python benchmarks/gpu.py
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from compare import BenchmarkArguments, Row, interleaved, parse, processor, report
from pipeline import make_trainer, read_recordings, run_epoch, write_recordings
from table import HEADS, markdown_row, row_cells
from torch import nn
from training_steps import SMALL_ENCODER, make_clips, make_encoder, make_model, trainers_optimizer, training_step
from utilisation import operations

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEForPreTraining

RATE = 16_000
REAL_TIME = 50_000  # times faster than it
COUNTED = 2  # clips whose operations are counted; so few that attention in its plain form has room
SMALL_DECODER = {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 64,
}

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Sizes:
    layers: int
    clips: int
    seconds: int
    side: int  # of the square matrices
    steps: int  # in a round
    recordings: int
    visit_frames: int
    workers: int


# Recordings come several times an epoch, so that the start of the loader's workers does not decide.
SIZES = Sizes(12, 64, 10, side=8192, steps=10, recordings=256, visit_frames=100, workers=min(8, os.cpu_count() or 1))
SMALL = Sizes(1, 2, 1, side=64, steps=1, recordings=4, visit_frames=0, workers=1)


@dataclass(frozen=True)
class Work:
    """What is timed: `run` takes a batch, and a compiled form of the model as `forward`."""

    name: str
    model: nn.Module
    run: Callable[..., object]
    bar: float | None = None


def works(sizes: Sizes, small: bool, device: torch.device) -> list[Work]:
    """A forward pass without gradient, and two steps of forward, backward and AdamW."""
    autocast = partial(torch.autocast, device.type, torch.bfloat16)
    encoder = make_encoder(small, sizes.layers).to(device).eval()
    narrow = SMALL_ENCODER | SMALL_DECODER if small else {}
    config = AudioMAEConfig.preset("base", num_hidden_layers=sizes.layers, **narrow)
    painter = AudioMAEForPreTraining(config).to(device).train()
    optimizer = trainers_optimizer(painter.parameters(), lr=1.5e-4)
    uamix = make_model(small, sizes.layers, min_crop=1).to(device)

    def encode(batch: Batch, forward: Callable = encoder) -> None:
        with torch.no_grad(), autocast():
            forward(batch["input_values"])

    def pretrain(batch: Batch, forward: Callable = painter) -> None:
        with autocast():
            loss = forward(batch["input_values"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def tuning_loss(batch: Batch, forward: Callable = uamix) -> torch.Tensor:
        with autocast():
            return forward(**batch).loss

    return [
        Work("encoder forward", encoder, encode),
        Work("pretraining step", painter, pretrain),
        Work("tuning step", uamix, training_step(uamix, tuning_loss), 0.45),
    ]


def compiled(work: Work, batch: Batch) -> tuple[Callable[[], object] | None, str]:
    """The work with its model compiled, after a first run; or None and why that failed."""
    # Without a GPU, what is tested is that the model can be traced: generating code for a CPU takes a minute.
    forward = torch.compile(work.model, backend="inductor" if batch["input_values"].is_cuda else "eager")
    try:
        work.run(batch, forward=forward)
    except Exception as error:  # whatever a compiler raises, the other figures of this run are wanted
        reason = (str(error).strip().splitlines() or [""])[0]
        return None, f"{work.name} does not compile: {type(error).__name__}: {reason}"
    return partial(work.run, batch, forward=forward), ""


def repeated(work: Callable[[], object], times: int, device: torch.device) -> Callable[[], None]:
    """The work so many times, until the device has done it."""

    def round_of() -> None:
        for _ in range(times):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return round_of


def model_rows(args: BenchmarkArguments, sizes: Sizes, device: torch.device) -> tuple[list[Row], list[str]]:
    """Shares of the rate of a matrix product, and what did not compile."""
    batch = {name: rows.to(device) for name, rows in make_clips(sizes.clips, sizes.seconds).items()}
    some = {name: rows[:COUNTED] for name, rows in batch.items()}
    left, right = torch.randn(2, sizes.side, sizes.side, device=device, dtype=torch.bfloat16)
    sides: dict[str, Callable[[], object]] = {"product": partial(torch.mm, left, right)}
    counts, bars, failures = {"product": 2 * sizes.side**3}, {}, []
    for work in works(sizes, args.small, device):
        counts[work.name] = operations(partial(work.run, some)) * sizes.clips // COUNTED
        sides[work.name] = partial(work.run, batch)
        compiled_work, failure = compiled(work, batch)
        if compiled_work:
            sides[f"{work.name}, compiled"] = compiled_work
            counts[f"{work.name}, compiled"] = counts[work.name]
        else:
            failures.append(failure)
        bars |= {work.name: work.bar, f"{work.name}, compiled": work.bar}
    rounds = {name: repeated(work, sizes.steps, device) for name, work in sides.items()}
    seconds = {
        name: [all_ / sizes.steps for all_ in taken] for name, taken in interleaved(rounds, args.repeats).items()
    }
    rates = {name: [counts[name] / one for one in taken] for name, taken in seconds.items()}
    return [
        share_row(f"{name}, fraction of the rate of a matrix product", name, sizes.clips, seconds, rates, bars[name])
        for name in sides
        if name != "product"
    ], failures


def share_row(
    case: str,
    name: str,
    clips: int,
    seconds: Mapping[str, Sequence[float]],
    rates: Mapping[str, Sequence[float]],
    bar: float | None,
) -> Row:
    shares = [own / product for own, product in zip(rates[name], rates["product"], strict=True)]
    own, product = (f"{statistics.median(rates[side]) / 1e12:.4g} TFLOP/s" for side in (name, "product"))
    speed = f"{clips / statistics.median(seconds[name]):,.4g} clips/s"
    return Row(case, f"{speed}, {own}", product, statistics.median(shares), min(shares), max(shares), bar)


def feature_rows(args: BenchmarkArguments, sizes: Sizes, device: torch.device) -> list[Row]:
    """Seconds of audio that become log-mels in a second."""
    extractor = AudioMAEFeatureExtractor()
    rng = np.random.default_rng(0)
    waves = [0.1 * rng.standard_normal(sizes.seconds * RATE, np.float32) for _ in range(sizes.clips)]
    there = [torch.from_numpy(wave).to(device) for wave in waves]

    def extract(clips: Sequence[np.ndarray] | Sequence[torch.Tensor]) -> Callable[[], None]:
        work = partial(extractor, clips, sampling_rate=RATE, return_tensors="pt", device=device)
        return repeated(work, sizes.steps, device)

    rows = []
    sides = {"arrays in the computer's memory": extract(waves), "tensors on the device": extract(there)}
    for name, taken in interleaved(sides, args.repeats).items():
        times = [sizes.steps * sizes.clips * sizes.seconds / one for one in taken]
        middle = statistics.median(times)
        case = f"log-mels on the device, of {name}"
        rows.append(Row(case, f"{middle:,.0f} s of audio/s", "real time", middle, min(times), max(times), REAL_TIME))
    return rows


def waiting_row(args: BenchmarkArguments, sizes: Sizes, device: torch.device, folder: Path) -> Row:
    """Share of an epoch that steps of tuning wait for their batch, files decoded and cached before."""
    write_recordings(folder / "recordings", sizes.recordings, sizes.seconds, sizes.seconds)
    dataset = read_recordings(folder / "recordings")
    model = make_model(args.small, sizes.layers).to(device)

    def loss(batch: Batch) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return model(**batch).loss

    step = training_step(model, loss)
    trainer = make_trainer(
        model,
        dataset,
        folder / "run",
        per_device_train_batch_size=sizes.clips,
        dataloader_num_workers=sizes.workers,
        visit_frames=sizes.visit_frames,
    )
    loader = trainer.get_train_dataloader()
    run_epoch(step, loader)
    epochs = [run_epoch(step, loader) for _ in range(args.repeats)]
    shares = [epoch.waited / epoch.seconds for epoch in epochs]
    waited, step_seconds = (
        statistics.median(getattr(epoch, name) / len(epoch.losses) for epoch in epochs)
        for name in ("waited", "seconds")
    )
    return Row(
        f"fraction of time waiting for data, tuning from FLAC files, {sizes.workers} workers",
        f"{1000 * waited:.3g} ms a batch",
        f"{1000 * step_seconds:.4g} ms a step",
        statistics.median(shares),
        min(shares),
        max(shares),
        0.05,
        at_least=False,
    )


def section(name: str, small: bool, sizes: Sizes, rows: Sequence[Row], failures: Sequence[str]) -> str:
    """Markdown for docs/performance.md."""
    what = f"Base preset, {sizes.clips} clips of {sizes.seconds} s, bfloat16 autocast"
    if small:
        what = "**These are not results of a GPU**: tiny sizes, which show that the script runs"
    lines = [f"### {name}", "", f"{what}, torch {torch.__version__}; median over the rounds [min, max].", ""]
    lines += [markdown_row(HEADS), "|" + "---|" * len(HEADS)]
    lines += [markdown_row(row_cells(asdict(row) | {"reached": row.reached})) for row in rows]
    return "\n".join([*lines, *(f"\n{failure}." for failure in failures)])


def main() -> None:
    args = parse()
    if not (torch.cuda.is_available() or args.small):
        raise SystemExit("There is no GPU here: run this where there is one, or add --small to test the script.")
    sizes = SMALL if args.small else SIZES
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    rows, failures = model_rows(args, sizes, device)
    rows += feature_rows(args, sizes, device)
    with tempfile.TemporaryDirectory() as folder:
        rows.append(waiting_row(args, sizes, device, Path(folder)))
    report("gpu", f"matrix products of the same {name}", rows, args)
    print(section(name, args.small, sizes, rows, failures))


if __name__ == "__main__":
    main()
