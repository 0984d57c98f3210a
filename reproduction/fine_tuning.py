"""Fine-tunes in several ways on official folds or over seeds, and compares them: the table of docs/fine_tuning.md.

python reproduction/fine_tuning.py --data ../shared/data --output_dir fine_tuning

Sets, draws and variants are flags for examples/finetune.py, in fine_tuning.json beside this file; a variant of
`defaults` has no flags of training but its own, and one that is `frozen` is not trained. A run that is already in the
output folder is not repeated; the table is of those that are there.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import HfArgumentParser

from uamix_hf.data import DataArguments
from uamix_hf.embedding.features import embed_features
from uamix_hf.evaluation import Scores, nearest_centroid, paired_difference
from uamix_hf.fine_tuning import FineTuningArguments, LabelArguments, fine_tuning_data
from uamix_hf.training import EncoderArguments

ROOT = Path(__file__).parents[1]
SETTINGS = Path(__file__).with_suffix(".json")


@dataclass
class BenchmarkArguments:
    output_dir: str = field(metadata={"help": "Where the classifiers and their results go."})
    data: str = field(default="../shared/data", metadata={"help": "Folder that holds the sets."})
    sets: list[str] = field(default_factory=list, metadata={"help": "Which ones; all if unset."})
    variants: list[str] = field(default_factory=list, metadata={"help": "Which ones; all if unset."})
    draws: int | None = field(default=None, metadata={"help": "The first so many folds or seeds; all if unset."})
    table_only: bool = field(default=False, metadata={"help": "Whether to print the table of what there is alone."})


def run(args: BenchmarkArguments, settings: dict[str, Any], name: str, variant: str, draw: str, folder: Path) -> None:
    """examples/finetune.py as its users would run it, or the frozen encoder on the same rows."""
    entry = settings["variants"][variant]
    plain = entry.get("defaults", False)
    words = ["--train_dir", str(Path(args.data) / name), "--output_dir", str(folder)]
    words += settings["defaults" if plain else "common"].split()
    words += settings["sets"][name]["rows" if plain else "flags"].split()
    words += [*entry["flags"].split(), *draw.split()]
    folder.mkdir(parents=True, exist_ok=True)
    if entry.get("frozen"):
        return classify_frozen(words, folder)
    words = [sys.executable, str(ROOT / "examples/finetune.py"), *words]
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        subprocess.run(words, check=True, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ)


def classify_frozen(words: list[str], folder: Path) -> None:
    """Nearest centroid of frozen embeddings, on the rows that examples/finetune.py has with these flags."""
    at = words.index("--test_where")
    parser = HfArgumentParser((EncoderArguments, DataArguments, LabelArguments, FineTuningArguments))
    model_args, data_args, label_args, args = parser.parse_args_into_dataclasses(words[:at] + words[at + 2 :])
    encoder, extractor = model_args.load_encoder(), model_args.load_feature_extractor()
    data = fine_tuning_data(data_args, extractor, args, label_args, None, [words[at + 1]])
    parts = [data.train, data.held_out["test"]]
    train, test = (np.asarray(part["labels"][:]) for part in parts)
    support, query = (embed_features(encoder, extractor, part) for part in parts)
    hits = nearest_centroid(support, train, query) == test
    results = {f"test_accuracy_{label}": hits[test == n].mean() for n, label in enumerate(data.targets.names)}
    (folder / "results.json").write_text(json.dumps({"label_names": data.targets.names, "results": results}))


def read(folders: list[Path]) -> Scores:
    """Accuracy of each class in each draw."""
    values, classes, draws = [], [], []
    for draw, folder in enumerate(folders):
        results = json.loads((folder / "results.json").read_text())
        for number, label in enumerate(results["label_names"]):
            values.append(results["results"][f"test_accuracy_{label}"])
            classes.append(number)
            draws.append(draw)
    return Scores(np.array(values), np.array(classes), np.array(draws))


def places(folder: Path, settings: dict[str, Any], name: str, variant: str, most: int | None) -> dict[str, Path]:
    """Where the results of each draw of a variant go, by the draw's flags."""
    entry, sets = settings["variants"][variant], settings["sets"][name]
    draws = sets["draws"][: entry.get("draws")][:most]
    if entry.get("seeds"):
        draws = [f"{draw} {seed}" for seed in sets.get("seeds", []) for draw in draws]
    return {draw: folder / name / variant.replace(", ", "-").replace(" ", "-") / str(i) for i, draw in enumerate(draws)}


def table(folder: Path, settings: dict[str, Any], name: str, most: int | None) -> None:
    """Accuracies in %, with the 95 % interval over draws, and differences with theirs over draws and classes."""
    print(f"\n| {name} | draws | accuracy | minus | difference | what |\n|---|---|---|---|---|---|")
    found: dict[str, Scores] = {}
    for variant, entry in settings["variants"].items():
        folders = list(places(folder, settings, name, variant, most).values())
        if not folders or not all((one / "results.json").exists() for one in folders):
            continue
        found[variant] = read(folders)
        for peer in [peer for peer in entry.get("against", []) if peer in found] or [""]:
            gain = gain_over(found[peer], found[variant]) if peer else ""
            print(f"| {variant} | {len(folders)} | {found[variant]} | {peer} | {gain} | {entry['why']} |")


def gain_over(peer: Scores, scores: Scores) -> str:
    """The difference in points, with its interval."""
    difference = paired_difference(peer, scores)
    mean, low, high = (100 * value for value in (difference.mean, difference.low, difference.high))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def main() -> None:
    (args,) = HfArgumentParser(BenchmarkArguments).parse_args_into_dataclasses()
    settings = json.loads(SETTINGS.read_text())
    args.data = str(Path(args.data).resolve())
    folder = Path(args.output_dir).resolve()
    for name in args.sets or settings["sets"]:
        for variant in [] if args.table_only else args.variants or settings["variants"]:
            for draw, target in places(folder, settings, name, variant, args.draws).items():
                if not (target / "results.json").exists():
                    run(args, settings, name, variant, draw, target)
        table(folder, settings, name, args.draws)


if __name__ == "__main__":
    main()
