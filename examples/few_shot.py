"""How far few labels go with one or more frozen encoders, on labelled sound and on the same draws:

python examples/few_shot.py --model_name_or_path audio-mae tuned --data_dir recordings --label_column label \
    --group_column speaker --protocol few_shot low_shot knn linear --output_dir results
"""

import json
import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from transformers import HfArgumentParser

from uamix_hf.data import leave_out_unreadable, load_recordings, read_labels, report_skipped
from uamix_hf.evaluation import cached_embeddings
from uamix_hf.evaluation.report import draw_pictures, score_table, write_report
from uamix_hf.evaluation.results import ProtocolArguments, check_draws, measure, result_tree


@dataclass
class EvaluationArguments:
    model_name_or_path: list[str] = field(metadata={"help": "Encoders: folders or Hub repositories."})
    output_dir: str = field(metadata={"help": "Where results.json, report.html and the pictures go."})
    model_labels: list[str] = field(default_factory=list, metadata={"help": "Names for the tables, one a model."})
    data_dir: list[str] = field(default_factory=list, metadata={"help": "Folders of labelled sound."})
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub, instead of a folder."})
    dataset_split: str = field(default="train", metadata={"help": "Split of that dataset."})
    audio_column: str = field(default="audio", metadata={"help": "Column of that dataset that holds the sound."})
    where: list[str] = field(
        default_factory=list, metadata={"help": "Rows to use: COLUMN=VALUE[,VALUE...].", "action": "extend"}
    )
    label_column: str = field(default="label", metadata={"help": "Column of the labels."})
    label_separator: str | None = field(
        default=None, metadata={"help": "What separates the labels of a clip that has several: ';' in 'dog;rain'."}
    )
    group_column: str | None = field(
        default=None, metadata={"help": "Speaker or source, which labelled and tested clips must not share."}
    )
    fold_column: str | None = field(
        default=None, metadata={"help": "Official folds (low_shot, linear); random splits if unset."}
    )
    on_error: Literal["raise", "skip"] = field(
        default="raise",
        metadata={"help": "What to do with an unreadable recording: stop and name it, or leave it out."},
    )
    batch_size: int = field(default=16, metadata={"help": "Clips embedded at once."})
    cache_dir: str | None = field(
        default=None, metadata={"help": "Where embeddings are kept; output_dir/embeddings if unset."}
    )

    def __post_init__(self) -> None:
        paths = self.model_name_or_path
        if not self.model_labels:
            names = [Path(path).name for path in paths]
            self.model_labels = names if len(set(names)) == len(paths) else list(paths)
        if len(self.model_labels) != len(paths) or len(set(self.model_labels)) < len(paths):
            raise ValueError(
                f"{len(paths)} models and the names {', '.join(self.model_labels)}: give --model_labels one name a "
                "model, all different."
            )


def main() -> None:
    args, protocols = HfArgumentParser((EvaluationArguments, ProtocolArguments)).parse_args_into_dataclasses()
    recordings = load_recordings(args.data_dir, args.dataset_name, args.dataset_split, args.audio_column, args.where)
    skipped: dict[str, str] = {}
    if args.on_error == "skip":
        recordings, skipped = leave_out_unreadable(recordings)
    clips = read_labels(recordings, args.label_column, args.label_separator, args.group_column, args.fold_column)
    splits = check_draws(clips, protocols)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)

    paths = dict(zip(args.model_labels, args.model_name_or_path, strict=True))
    cache = args.cache_dir or folder / "embeddings"
    vectors = {name: cached_embeddings(path, recordings, cache, args.batch_size) for name, path in paths.items()}
    found = {name: measure(vectors[name], clips, splits, protocols, path, recordings) for name, path in paths.items()}
    results = result_tree(asdict(args) | asdict(protocols), clips, paths, found)
    results["data"]["skipped"] = skipped
    (folder / "results.json").write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    pictures = draw_pictures(folder, results, vectors, clips.labels)
    write_report(folder / "report.html", results, pictures, shlex.join(["python", *sys.argv]))

    print(f"\nMean and 95 % interval over draws from {len(clips.labels)} clips of {len(clips.names)} classes")
    print(score_table(results))
    report_skipped(skipped)
    print(f"\nReport: {folder / 'report.html'}; pictures: {', '.join(picture.path.name for picture in pictures)}")


if __name__ == "__main__":
    main()
