"""Where the time of each of the four jobs goes, as shares by kind of operator: a table in Markdown.

torch.profiler's own time of every operator is added up by kind, and what is within reading and collating (data),
computing log-mels (front-end) and AdamW (optimiser) counts there. What is left of a job's time is Python and operators
of other kinds: copies, indexing, sums. The profiler itself adds to each operator, so that small models look more like
Python than they are. Training reads cached log-mels of FLAC files of 1 to 5 s, and embedding the files, in batches of
4. Presets tiny and base, with 2 layers each (and 1 of the decoder, of local windows); default recipes; random weights.

python benchmarks/profile_jobs.py
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from compare import BenchmarkArguments, conditions, parse, write_record
from pipeline import loader_of, make_trainer, read_recordings, write_recordings
from table import markdown_row
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from training_steps import trainers_optimizer

from uamix_hf import (
    AudioEmbedder,
    AudioMAEConfig,
    AudioMAEFeatureExtractor,
    AudioMAEForAudioClassification,
    AudioMAEForPreTraining,
    AudioMAEModel,
    UaMixForContrastiveTuning,
)

JOBS = ("pretraining", "tuning", "fine-tuning", "embedding")
PRESETS = ("tiny", "base")
LAYERS = {"num_hidden_layers": 2, "decoder_num_hidden_layers": 1, "decoder_type": "local"}
CLIPS, BATCH, EPOCHS, LABELS = 12, 4, 3, 10
JOB, OPTIMISER = "job", "Optimizer.step"
PLACES = {"data": "data", "front-end": "front-end", OPTIMISER: "optimiser"}  # ranges that claim what is within them
KINDS = {  # parts of operators' names; the first kind that fits
    "attention": ("scaled_dot_product", "softmax"),
    "matmul": ("mm", "matmul", "linear", "convolution", "einsum"),
    "norms and activations": ("norm", "gelu", "relu"),
}
OTHER = "Python and other"
COLUMNS = ("matmul", "attention", "norms and activations", "front-end", "data", "optimiser", OTHER)


@dataclass(frozen=True)
class Profile:
    """Milliseconds of a step or of a batch, and the share of each kind."""

    job: str
    preset: str
    milliseconds: float
    shares: dict[str, float]


def kind_of(event: Any) -> str:
    """Where the own time of an operator or a range counts."""
    within = event
    while within is not None:
        for start, place in PLACES.items():
            if within.name.startswith(start):
                return place
        within = within.cpu_parent
    for kind, parts in KINDS.items():
        if event.name.startswith("aten::") and any(part in event.name for part in parts):
            return kind
    return OTHER


def in_job(event: Any) -> bool:
    while event is not None:
        if event.name == JOB:
            return True
        event = event.cpu_parent
    return False


def shares_of(events: Any) -> tuple[float, dict[str, float]]:
    """Microseconds of the job, and the share of each of COLUMNS."""
    times: Counter[str] = Counter()
    for event in events:
        if in_job(event):
            times[kind_of(event)] += event.self_cpu_time_total
    total = sum(times.values())
    return total, {column: times[column] / total for column in COLUMNS}


def fetched(batches: Any) -> Iterator[Any]:
    """The batches, with the time to fetch each under `data`."""
    iterator = iter(batches)
    while True:
        with record_function("data"):
            batch = next(iterator, None)
        if batch is None:
            return
        yield batch


def train(model: nn.Module, batches: Any, epochs: int, loss: Callable[[dict], torch.Tensor]) -> Callable[[], int]:
    """A function that takes a step on each batch of some epochs and returns how many it took."""
    optimizer = trainers_optimizer(weight for weight in model.train().parameters() if weight.requires_grad)
    finish = model.update_target if isinstance(model, UaMixForContrastiveTuning) else nullcontext

    def run() -> int:
        steps = 0
        for _ in range(epochs):
            for batch in fetched(batches):
                loss(batch).backward()
                optimizer.step()
                finish()
                optimizer.zero_grad()
                steps += 1
        return steps

    return run


def embed(config: AudioMAEConfig, files: list[str], epochs: int) -> Callable[[], int]:
    """A function that embeds the files some times and returns the number of batches."""
    embedder = AudioEmbedder(AudioMAEModel(config).eval(), AudioMAEFeatureExtractor())
    front_end = embedder.features

    def features(*arguments: Any) -> Any:
        with record_function("front-end"):
            return front_end(*arguments)

    def run() -> int:
        count = 0
        with mock.patch.object(embedder, "features", features):
            for _ in range(epochs):
                for batch in fetched(embedder.batches(files, BATCH)):
                    embedder.embed([wave for _, wave in batch])
                    count += 1
        return count

    return run


def jobs(preset: str, folder: Path, epochs: int) -> dict[str, Callable[[], int]]:
    """Work of each of JOBS, which returns its number of steps or batches."""
    config = AudioMAEConfig.preset(preset, **LAYERS)
    dataset = read_recordings(folder / "recordings")
    tuned = UaMixForContrastiveTuning.from_encoder(AudioMAEModel(config), token_drop=0.5, queue_size=3600)
    trainer = make_trainer(tuned, dataset, folder / "run", per_device_train_batch_size=BATCH)
    batches = loader_of(trainer, dataset)
    pretrained = AudioMAEForPreTraining(config)
    classifier = AudioMAEForAudioClassification(AudioMAEConfig.preset(preset, **LAYERS, num_labels=LABELS))

    def given(batch: dict) -> dict[str, torch.Tensor]:
        return {"input_values": tuned.normalize(batch["input_values"]), "attention_mask": batch["attention_mask"]}

    def fine_tuning(batch: dict) -> torch.Tensor:
        return classifier(**given(batch), labels=batch["sample_id"] % LABELS).loss

    files = sorted(str(file) for file in (folder / "recordings").iterdir())
    work = (
        train(pretrained, batches, epochs, lambda batch: pretrained(**given(batch)).loss),
        train(tuned, batches, epochs, lambda batch: tuned(**batch).loss),
        train(classifier, batches, epochs, fine_tuning),
        embed(config, files, epochs),
    )
    return dict(zip(JOBS, work, strict=True))


def measure(args: BenchmarkArguments, folder: Path) -> list[Profile]:
    clips, epochs, presets = (BATCH, 1, PRESETS[:1]) if args.small else (CLIPS, EPOCHS, PRESETS)
    write_recordings(folder / "recordings", clips, 1.0, 5.0)
    profiles = []
    for preset in presets:
        for job, work in jobs(preset, folder, epochs).items():
            work()  # not measured: it sets up AdamW's state, and files are in memory then
            with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function(JOB):
                steps = work()
            total, shares = shares_of(profiler.events())
            profiles.append(Profile(job, preset, total / 1000 / steps, shares))
    return profiles


def markdown(profiles: list[Profile]) -> str:
    heads = ("job", "preset", "ms a step", *(f"{column}, %" for column in COLUMNS))
    lines = [markdown_row(heads), "|" + "---|" * len(heads)]
    for one in profiles:
        shares = (f"{100 * one.shares[column]:.0f}" for column in COLUMNS)
        lines.append(markdown_row((one.job, one.preset, f"{one.milliseconds:,.4g}", *shares)))
    return "\n".join(lines)


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        profiles = measure(args, Path(folder))
    print(markdown(profiles))
    record = {"benchmark": "profile_jobs", **conditions(args), "rows": [asdict(one) for one in profiles]}
    write_record(record, args)


if __name__ == "__main__":
    main()
