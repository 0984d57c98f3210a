"""The runs of recipe.py as a Markdown table: gain over the untuned encoder, another variant or another encoder.

python reproduction/recipe_table.py --output_dir recipe --rows test
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import HfArgumentParser

from uamix_hf.evaluation import bootstrap_mean

PROTOCOLS = {"validation": ("1-shot", "5-shot"), "test": ("1-shot", "5-shot", "knn", "linear")}


@dataclass
class TableArguments:
    output_dir: str = field(metadata={"help": "Of recipe.py."})
    settings: str = field(
        default=str(Path(__file__).with_name("recipe.json")), metadata={"help": "JSON file of the variants."}
    )
    rows: str = field(default="validation", metadata={"help": "validation or test."})
    against: str = field(default="untuned", metadata={"help": "Variant that all are compared with."})
    against_dir: str | None = field(
        default=None, metadata={"help": "Output of recipe.py for another encoder, which has that variant."}
    )


@dataclass
class Cells:
    """Accuracies of all sets for one protocol, in %, with the levels that they share."""

    values: np.ndarray
    sets: np.ndarray
    classes: np.ndarray
    trials: np.ndarray


def read(path: Path, protocol: str) -> Cells:
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    with np.load(path) as file:
        names = sorted({name.split("/")[0] for name in file.files})
        for number, name in enumerate(names):
            values, classes, trials = (file[f"{name}/{protocol}/{part}"] for part in ("values", "classes", "trials"))
            parts["values"].append(100 * values)
            parts["sets"].append(np.full(len(values), number))
            # Classes and trials of different sets have nothing in common.
            parts["classes"].append(classes + 1_000 * number)
            parts["trials"].append(trials + 1_000_000 * number)
    return Cells(**{name: np.concatenate(columns) for name, columns in parts.items()})


def peer(folder: Path, variants: dict[str, Any], against: str, seed: str) -> Path:
    """The run to compare with; what is not trained has no seed, or was made with the first alone."""
    names = (f"{against}-{seed}.npz", f"{against}.npz", f"{against}-0.npz")
    trained = not variants.get(against, {"untuned": True}).get("untuned")
    for name in names[:1] if trained else names:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{folder} has no scores of {against} with seed {seed}: run recipe.py for them.")


def difference(
    folder: Path, variants: dict[str, Any], variant: str, against: str, protocol: str, peers: Path
) -> tuple[str, dict[int, float]]:
    """Mean gain with its 95 % interval over trials, classes and training seeds, and the mean gain of each set.

    The runs of `against` are in the folder `peers`.
    """
    values, levels = [], defaultdict(list)
    for path in sorted(folder.glob(f"{variant}-[0-9]*.npz")):
        seed = path.stem.rpartition("-")[2]
        tuned = read(path, protocol)
        base = read(peer(peers, variants, against, seed), protocol)
        values.append(tuned.values - base.values)
        for name in ("sets", "classes", "trials"):
            levels[name].append(getattr(tuned, name))
        levels["seeds"].append(np.full(len(tuned.values), int(seed)))
    gains, sets = np.concatenate(values), np.concatenate(levels["sets"])
    counts = np.bincount(sets)
    factors = [np.concatenate(levels[name]) for name in ("classes", "trials", "seeds")]
    # Every set weighs the same, however many cells it has.
    low, high = bootstrap_mean(gains, factors, weights=1 / counts[sets])
    by_set = {number: float(gains[sets == number].mean()) for number in range(len(counts))}
    return f"{np.mean(list(by_set.values())):+.1f} [{low:+.1f}, {high:+.1f}]", by_set


def main() -> None:
    (args,) = HfArgumentParser(TableArguments).parse_args_into_dataclasses()
    folder, peers = (Path(name) / args.rows for name in (args.output_dir, args.against_dir or args.output_dir))
    variants = json.loads(Path(args.settings).read_text(encoding="utf-8"))["variants"]
    protocols = PROTOCOLS[args.rows]
    print(f"| variant | flags | seeds | {' | '.join(protocols)} | 5-shot by set | why |")
    print("|" + "---|" * (len(protocols) + 5))
    for variant, entry in variants.items():
        seeds = sorted(path.stem.rpartition("-")[2] for path in folder.glob(f"{variant}-[0-9]*.npz"))
        if not seeds or (variant == args.against and folder == peers):
            continue
        cells = {
            protocol: difference(folder, variants, variant, args.against, protocol, peers) for protocol in protocols
        }
        by_set = ", ".join(f"{gain:+.1f}" for gain in cells["5-shot"][1].values())
        shown = " | ".join(text for text, _ in cells.values())
        layer = f"--embedding_layer {entry['layer']}" if "layer" in entry else ""
        pooling = f"--pooling {entry['pooling']}" if "pooling" in entry and "of" not in entry else ""
        flags = " ".join(part for part in (entry.get("script"), layer, pooling, entry["flags"]) if part) or "-"
        print(f"| {variant} | `{flags}` | {len(seeds)} | {shown} | {by_set} | {entry['why']} |")


if __name__ == "__main__":
    main()
