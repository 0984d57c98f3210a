"""Time to import the package, and to a first embedding, in processes of their own and in turns.

Against what any module with a transformers model imports, `PreTrainedModel` and `FeatureExtractionMixin`, and against
`import torch, transformers`, which imports no models, trainers or feature extractors before they are used.
The first use imports it, loads the smallest encoder that comes with it and embeds one clip; it is compared with the
same imports. CPU time is that of the whole process, with the start of Python.

python benchmarks/import_time.py
"""

import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from compare import Row, interleaved, parse, report

ROOT = Path(__file__).parents[1]
OURS = "import uamix_hf"
FIRST_USE = """
from uamix_hf import AudioEmbedder
AudioEmbedder.from_pretrained("model_cards/uamix-mae-tiny").encode("examples/siren.flac")
"""
CLASSES = "import torch; from transformers import AutoModel, FeatureExtractionMixin, PreTrainedModel"
BARE = "import torch, transformers"


def importer(code: str, cpu: list[float]) -> Callable[[], None]:
    """Runs `code` in a new process and appends the CPU seconds of that process."""

    def work() -> None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    return work


def row(case: str, ours: list[float], peer: list[float], bar: float | None = None) -> Row:
    """How many times as long ours takes, round by round."""
    ratios = [own / other for own, other in zip(ours, peer, strict=True)]
    times = [f"{statistics.median(side):.3g} s" for side in (ours, peer)]
    return Row(case, *times, statistics.median(ratios), min(ratios), max(ratios), bar, at_least=False)


def main() -> None:
    args = parse()
    cpu: dict[str, list[float]] = {code: [] for code in (BARE, CLASSES, OURS, FIRST_USE)}
    untimed = 0 if args.small else 1
    wall = interleaved({code: importer(code, times) for code, times in cpu.items()}, args.repeats, untimed)
    cpu = {code: times[untimed:] for code, times in cpu.items()}
    rows = []
    peers = ((CLASSES, "the base classes of any model", 1.15), (BARE, "torch and transformers alone", None))
    for ours, what in ((OURS, ""), (FIRST_USE, "first use, ")):
        for peer, words, bar in peers:
            rows.append(row(f"{what}CPU time, against {words}", cpu[ours], cpu[peer], bar))
            of_wall = bar if ours is FIRST_USE else None
            rows.append(row(f"{what}wall time, against {words}", wall[ours], wall[peer], of_wall))
    report("import_time", "imports of transformers without this package", rows, args)


if __name__ == "__main__":
    main()
