"""What 2 million clips cost: the tables of docs/scaling.md, by counting and by closed forms, not by timing.

Operations are those that PyTorch's counter sees in a real step; a product with a sum is two. Bytes are those
of a real cache. What the neighbour queue holds is simulated with the queue itself, in an epoch of 2 million clips.

python benchmarks/large_scale.py
"""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode
from training_steps import SMALL_ENCODER, SMALL_HEADS
from transformers import HfArgumentParser

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEForPreTraining, UaMixForContrastiveTuning
from uamix_hf.data import cached_features, load_recordings
from uamix_hf.tuning.neighbour_queue import NeighbourQueue

CLIPS_COUNTED, FRAMES, MEL = 2, 1024, 128
PER_PROCESS = 64  # clips
FLOAT32 = 4  # bytes


@dataclass
class LargeScaleArguments:
    clips: int = field(default=2_000_000, metadata={"help": "Clips of 10.24 s."})
    processes: list[int] = field(default_factory=lambda: [8, 64, 512], metadata={"help": "Numbers of processes."})
    flops: float = field(default=1e14, metadata={"help": "Operations per second that a process reaches."})
    bandwidth: float = field(default=2.5e10, metadata={"help": "Bytes per second between processes."})
    small: bool = field(default=False, metadata={"help": "Tiny encoder: shows that the script runs."})


def operations(work: Callable[[], object]) -> float:
    """Floating-point operations per clip."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / CLIPS_COUNTED


def encoder_operations(config: AudioMAEConfig, tokens: int) -> float:
    """Forward pass of one clip by closed form: matrices, attention's two products, patch embedding."""
    width, inner = config.hidden_size, config.intermediate_size
    layer = 2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width
    return config.num_hidden_layers * layer + 2 * (tokens - 1) * config.patch_size**2 * width


def count(config: AudioMAEConfig, heads: dict[str, int]) -> tuple[dict[str, float], UaMixForContrastiveTuning]:
    """Operations per clip of 10.24 s by job, and the tuned model."""
    values, mask = torch.randn(CLIPS_COUNTED, FRAMES, MEL), torch.ones(CLIPS_COUNTED, FRAMES, dtype=torch.long)
    batch = {"input_values": values, "attention_mask": mask, "sample_id": torch.arange(CLIPS_COUNTED)}
    # The counter does not see the operations of fused attention on a CPU.
    pretraining = AudioMAEForPreTraining._from_config(config, attn_implementation="eager").train()
    encoder: torch.nn.Module = pretraining.audio_mae
    with torch.no_grad():
        found = {"embedding": operations(lambda: encoder.eval()(values))}
    found["pretraining"] = operations(lambda: pretraining.train()(values).loss.backward())
    for name, drop in (("tuning, all tokens", 0.0), ("tuning, half of the tokens", 0.5)):
        model = UaMixForContrastiveTuning.from_encoder(pretraining.audio_mae, token_drop=drop, min_crop=1, **heads)
        found[name] = operations(lambda: model.train()(**batch).loss.backward())  # noqa: B023
    return found, model


def cached_bytes() -> tuple[float, float]:
    """Bytes of a clip of 10.24 s as FLAC of noise, which compresses least, and in the cache."""
    rng, clips = np.random.default_rng(0), 4
    with tempfile.TemporaryDirectory() as folder:
        for number in range(clips):
            soundfile.write(Path(folder) / f"{number}.flac", rng.normal(0, 0.1, 163_840).astype(np.float32), 16_000)
        audio = sum(path.stat().st_size for path in Path(folder).glob("*.flac"))
        features = cached_features(load_recordings(folder), AudioMAEFeatureExtractor()).dataset
        return audio / clips, features.data.nbytes / clips


@dataclass(frozen=True)
class Queue:
    """What the neighbour queue holds after some steps: all shares are between 0 and 1."""

    replaced: float
    oldest: float
    own: float


def simulate(size: int, step_clips: int, clips: int, steps: int) -> Queue:
    """Fills a real queue with the clips of random epochs.

    Args:
        size: Keys.
        step_clips: Clips of a step over all processes.
        clips: Clips of an epoch.
        steps: Steps to take, at most an epoch's.
    """
    queue = NeighbourQueue(size, 1)
    order = torch.randperm(clips)[: steps * step_clips]
    for step, ids in enumerate(order.split(step_clips)):
        before = queue.labels.clone()
        queue.enqueue(torch.ones(len(ids), 1), ids, torch.full_like(ids, step))  # the label is the time
    age = step - queue.labels[queue.valid]
    coming = torch.randperm(clips)[: step_clips * steps]
    own = torch.isin(coming, queue.ids).float().mean()
    return Queue((before != queue.labels).float().mean().item(), age.max().item(), own.item())


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    header = list(header)
    for line in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(map(str, line)) + " |")
    print()


def main() -> None:
    (args,) = HfArgumentParser(LargeScaleArguments).parse_args_into_dataclasses()
    torch.manual_seed(0)
    narrow = SMALL_ENCODER | {"num_hidden_layers": 2} if args.small else {}
    config = AudioMAEConfig.preset("base", **narrow)
    found, model = count(config, SMALL_HEADS if args.small else {})

    tokens = FRAMES * MEL // config.patch_size**2
    rows = [
        (name, f"{number / 1e9:.3g}", f"{number / found['embedding']:.2f}", f"{args.clips * number / 1e18:.3g}",
         f"{args.clips * number / args.flops / 3600:.3g}")
        for name, number in found.items()
    ]  # fmt: skip
    closed = encoder_operations(config, tokens + config.num_prefix_tokens)
    print(f"{tokens} tokens and a class token; embedding by closed form: {closed / 1e9:.3g} GFLOP\n")
    table(("job", "GFLOP a clip", "embeddings", "EFLOP an epoch", "hours of one process"), rows)

    audio, cache = cached_bytes()
    table(
        ("a clip as", "kB", "GB of all"),
        [(name, f"{size / 1e3:.0f}", f"{args.clips * size / 1e9:,.0f}")
         for name, size in (("16-bit samples", 2 * 163_840), ("FLAC at worst", audio), ("cached log-mels", cache))],
    )  # fmt: skip

    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    width, size = model.config.projection_size, model.config.queue_size
    step_time = PER_PROCESS * found["tuning, half of the tokens"] / args.flops
    columns = []
    for processes in args.processes:
        clips = processes * PER_PROCESS
        queue = simulate(size, clips, args.clips, min(args.clips // clips, 2 * -(-size // clips)))
        gathered = 3 * clips * width * FLOAT32 + 8 * clips  # neighbours of both views, keys of one, ids
        lookup = 2 * 2 * PER_PROCESS * size * width
        gradients = 2 * trained * FLOAT32 * (processes - 1) / processes
        columns.append({
            "clips in a step": f"{clips:,}",
            "steps an epoch": f"{args.clips / clips:,.0f}",
            "seconds of computing in a step": f"{step_time:.2f}",
            "share of the queue replaced by a step": f"{queue.replaced:.3g}",
            "age of its oldest key, steps": f"{queue.oldest:g}",
            "share of clips with an old key of their own in it": f"{queue.own:.3g}",
            "lookup, share of a step's operations": f"{lookup / (step_time * args.flops):.2g}",
            "keys received by each process, MB a step": f"{gathered / 1e6:.3g}",
            "gradients sent and received by each process, MB a step": f"{gradients / 1e6:.0f}",
            "both at the bandwidth, share of a step": f"{(gathered + gradients) / args.bandwidth / step_time:.2g}",
            "similarities of one process, MB": f"{3 * PER_PROCESS * clips * FLOAT32 / 1e6:.3g}",
            "log-mels read by all processes, MB/s": f"{clips * cache / 1e6 / step_time:,.0f}",
        })  # fmt: skip
    table(("processes", *args.processes), [(name, *(column[name] for column in columns)) for name in columns[0]])


if __name__ == "__main__":
    main()
