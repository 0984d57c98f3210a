"""Times ways of doing the same thing in turns and in one process, so that what slows the machine slows all alike."""

import ctypes
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser
from transformers.utils import logging

from uamix_hf.version import package_versions

RESULTS = Path(__file__).parent / "results"
SPEED_DEPENDS_ON = ("torch", "transformers", "numpy")  # of other versions, rows are not put into one table
# Of glibc's malloc.h; both in bytes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 2**31 - 1


@dataclass
class BenchmarkArguments:
    repeats: int = field(default=7, metadata={"help": "Rounds that are timed, after one that is not."})
    threads: int = field(default=2, metadata={"help": "Threads of PyTorch; on small tensors two can be slower."})
    small: bool = field(
        default=False, metadata={"help": "Tiny sizes: shows that the script runs; its figures mean nothing."}
    )
    output_dir: str = field(default=str(RESULTS), metadata={"help": "Where the JSON goes."})


@dataclass(frozen=True)
class Row:
    """
    One line of the table of benchmarks.

    Args:
        case: What was done. ours, peer: In words, median and unit. value: What has a bar, such as a ratio of speeds.
        low, high: Least and largest value of any round. bar: What is aimed at, None where there is no aim.
        at_least: Whether more is better.
    """

    case: str
    ours: str
    peer: str
    value: float
    low: float
    high: float
    bar: float | None = None
    at_least: bool = True

    @property
    def reached(self) -> bool | None:
        if self.bar is None:
            return None
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def parse() -> BenchmarkArguments:
    """The arguments of a benchmark; threads and memory are set for it."""
    (args,) = HfArgumentParser(BenchmarkArguments).parse_args_into_dataclasses()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    logging.set_verbosity_error()
    return args


def keep_freed_memory() -> None:
    """Under Linux, blocks that were freed stay with the process.

    Otherwise those of more than 32 MB go back to the system, which hands them out zeroed at the next step: whoever
    computes in larger pieces pays for that, not for computing. MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ do the
    same for any program.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def clock(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(
    sides: Mapping[str, Callable[[], object]], repeats: int, untimed_rounds: int = 1
) -> dict[str, list[float]]:
    """Seconds of every side in every round; who goes first changes each round, and the first rounds are not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(untimed_rounds):
        for work in sides.values():
            work()
    for number in range(repeats):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            seconds[name].append(clock(sides[name]))
    return seconds


def ratio_row(
    case: str, seconds: Mapping[str, Sequence[float]], work: float, unit: str, bar: float | None = None
) -> Row:
    """How much faster the first side is than the second, round by round.

    Args:
        seconds: Of two sides, ours first. work: How many `unit` a round does, such as clips.
    """
    ours, peer = seconds.values()
    ratios = [theirs / own for own, theirs in zip(ours, peer, strict=True)]
    speeds = [f"{work / statistics.median(side):,.4g} {unit}/s" for side in (ours, peer)]
    return Row(case, *speeds, statistics.median(ratios), min(ratios), max(ratios), bar)


def processor() -> str:
    """The processor's name."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def conditions(args: BenchmarkArguments) -> dict[str, Any]:
    """What was measured on, and how."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": {name: version for name, version in package_versions().items() if name in SPEED_DEPENDS_ON},
        "arguments": {key: value for key, value in asdict(args).items() if key != "output_dir"},
    }


def write_record(record: Mapping[str, Any], args: BenchmarkArguments) -> None:
    """Writes what a benchmark found into the folder of results, to a file of its name."""
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (folder / f"{record['benchmark']}.json").write_text(text, encoding="utf-8")


def report(name: str, against: str, rows: Sequence[Row], args: BenchmarkArguments) -> None:
    """Prints the rows and writes them to `name.json`, with what they were measured on.

    Args:
        name: Of the script. against: Whom we are compared with, in a few words.
    """
    for row in rows:
        aim = "" if row.bar is None else f", aim {'>=' if row.at_least else '<='} {row.bar:g}"
        spread = f"{row.value:.3g} [{row.low:.3g}, {row.high:.3g}]"
        print(f"{name}, {row.case}: {row.ours} against {row.peer}: {spread}{aim}", flush=True)
    record = {
        "benchmark": name,
        "against": against,
        **conditions(args),
        "rows": [asdict(row) | {"reached": row.reached} for row in rows],
    }
    write_record(record, args)
