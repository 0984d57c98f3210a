"""Few-shot accuracy of one or more encoders on labelled sound, from the same episodes:

python examples/evaluate.py --model_name_or_path audio-mae tuned --data_dir recordings --label_column label \
    --output_dir results
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from transformers import HfArgumentParser

from uamix_hf import AudioEmbedder
from uamix_hf.data import as_groups, column_as_text, load_recordings
from uamix_hf.evaluation import Accuracy, few_shot_accuracy
from uamix_hf.evaluation.plots import plot_embeddings


@dataclass
class EvaluationArguments:
    model_name_or_path: list[str] = field(metadata={"help": "Encoders: folders or Hub repositories."})
    data_dir: str = field(metadata={"help": "Folder of labelled sound."})
    output_dir: str = field(metadata={"help": "Where results.json and embeddings.png go."})
    model_labels: list[str] = field(default_factory=list, metadata={"help": "Names for the table, one a model."})
    where: list[str] = field(
        default_factory=list, metadata={"help": "Rows to use: COLUMN=VALUE[,VALUE...].", "action": "extend"}
    )
    label_column: str = field(default="label", metadata={"help": "Column of the labels."})
    group_column: str | None = field(default=None, metadata={"help": "What support and query must not share."})
    n_way: int = field(default=5, metadata={"help": "Classes in an episode."})
    k_shot: list[int] = field(default_factory=lambda: [1, 5], metadata={"help": "Labelled clips per class."})
    episodes: int = field(default=600, metadata={"help": "Episodes."})
    seed: int = field(default=0, metadata={"help": "Of the episodes."})
    batch_size: int = field(default=32, metadata={"help": "Clips embedded at once."})


def table(titles: list[str], rows: list[list[str]]) -> str:
    """Plain text with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(titles, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [titles, *rows]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def main() -> None:
    (args,) = HfArgumentParser(EvaluationArguments).parse_args_into_dataclasses()
    recordings = load_recordings(args.data_dir, where=args.where)
    names, labels = np.unique(column_as_text(recordings, args.label_column), return_inverse=True)
    groups = as_groups(column_as_text(recordings, args.group_column)) if args.group_column else None
    titles = args.model_labels or args.model_name_or_path

    vectors, results = {}, {}
    for title, path in zip(titles, args.model_name_or_path, strict=True):
        embedder = AudioEmbedder.from_pretrained(path)
        vectors[title] = embedder.encode(recordings["audio"][:], batch_size=args.batch_size)
        results[title] = {
            k: few_shot_accuracy(vectors[title], labels, groups, args.n_way, k, episodes=args.episodes, seed=args.seed)
            for k in args.k_shot
        }
    rows = [[title, *map(str, scores.values())] for title, scores in results.items()]
    first, last = results[titles[0]], results[titles[-1]]
    if len(titles) > 1:
        gains = [Accuracy(last[k].episodes - first[k].episodes) for k in args.k_shot]  # paired: the same episodes
        rows.append(["difference", *map(str, gains)])
    print(f"\nFew-shot accuracy in %, {args.n_way}-way, mean and 95 % interval over {args.episodes} episodes, "
          f"{len(labels)} clips of {len(names)} classes")  # fmt: skip
    print(table(["encoder", *(f"{k}-shot" for k in args.k_shot)], rows))

    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    scores = {
        title: {k: {"mean": score.mean, "interval": score.interval} for k, score in by_k.items()}
        for title, by_k in results.items()
    }
    (folder / "results.json").write_text(json.dumps({"arguments": asdict(args), "accuracy": scores}, indent=2))
    plot_embeddings(folder / "embeddings.png", vectors, labels, list(names), args.seed)
    print(f"\nPicture: {folder / 'embeddings.png'}")


if __name__ == "__main__":
    main()
