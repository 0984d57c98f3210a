"""Evaluate frozen encoders with few labels, on labelled recordings and on the same episodes and splits:

python examples/few_shot.py --model_name_or_path audio-mae tuned --data_dir recordings --label_column label \
    --group_column speaker --protocol few_shot low_shot knn linear --output_dir results

`--config examples/benchmarks/esc50.yaml` runs a benchmark of the Hub, with its official splits and metric.
"""

import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from transformers import HfArgumentParser

from uamix_hf.data import load_recordings, report_skipped
from uamix_hf.evaluation import ProtocolArguments, evaluate_encoders, score_table, with_config_file
from uamix_hf.training import EncoderArguments

CHOICES = ("embedding_layer", "pooling", "max_length")


@dataclass
class EvaluationArguments:
    model_name_or_path: list[str] = field(metadata={"help": "Encoders: folders or Hub repositories."})
    output_dir: str = field(metadata={"help": "Folder for results.json, report.html and plots."})
    config: str | None = field(
        default=None, metadata={"help": "YAML file of flags, which those on the command line override."}
    )
    model_labels: list[str] = field(
        default_factory=list, metadata={"help": "Names of the encoders in tables, one for each."}
    )
    embedding_layer: list[int] = field(
        default_factory=list,
        metadata={"help": "Layer whose output is the embedding, from 1 on: one for all encoders, or one for each."},
    )
    pooling: list[str] = field(
        default_factory=list, metadata={"help": "Pooling of its tokens: one for all encoders, or one for each."}
    )
    max_length: list[int] = field(
        default_factory=list,
        metadata={"help": "Longest window in frames (10 ms): one for all encoders, or one for each."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether to run code that comes with the models."})
    data_dir: list[str] = field(default_factory=list, metadata={"help": "Folders of labelled audio."})
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub, instead of a folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of that dataset."})
    dataset_split: str = field(
        default="train",
        metadata={"help": "Split of that dataset; several, train+test, have a column `split` of their names."},
    )
    audio_column: str = field(default="audio", metadata={"help": "Column of that dataset that holds the audio."})
    where: list[str] = field(
        default_factory=list, metadata={"help": "Rows to use: COLUMN=VALUE[,VALUE...].", "action": "extend"}
    )
    label_column: str = field(default="label", metadata={"help": "Column of the labels."})
    label_separator: str | None = field(
        default=None, metadata={"help": "Separator of the labels of a clip that has several: ';' in 'dog;rain'."}
    )
    group_column: str | None = field(
        default=None, metadata={"help": "Column of the speaker or source, which labelled and test clips never share."}
    )
    fold_column: str | None = field(
        default=None,
        metadata={"help": "Column of official folds (low_shot, fine_tune, linear); random splits if unset."},
    )
    on_error: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "Whether an unreadable recording stops the run or is left out."}
    )
    batch_size: int = field(default=16, metadata={"help": "Batch size of the encoders."})
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder where embeddings are cached; output_dir/embeddings if unset."}
    )

    def __post_init__(self) -> None:
        paths = self.model_name_or_path
        if not self.model_labels:
            names = [Path(path).name for path in paths]
            self.model_labels = names if len(set(names)) == len(paths) else list(paths)
        if len(self.model_labels) != len(paths) or len(set(self.model_labels)) < len(paths):
            raise ValueError(
                f"{len(paths)} models and the names {', '.join(self.model_labels)}: give --model_labels one name for "
                "each model, all different."
            )
        for name in CHOICES:
            if (count := len(getattr(self, name))) not in (0, 1, len(paths)):
                raise ValueError(f"--{name} has {count} values for {len(paths)} models: one for all, or one for each.")

    def encoders(self) -> dict[str, EncoderArguments]:
        """Encoders by the names that they have in tables."""
        count = len(self.model_name_or_path)
        chosen = {name: values * (count // len(values)) for name in CHOICES if (values := getattr(self, name))}
        return {
            label: EncoderArguments(
                path,
                trust_remote_code=self.trust_remote_code,
                **{name: values[place] for name, values in chosen.items()},
            )
            for place, (label, path) in enumerate(zip(self.model_labels, self.model_name_or_path, strict=True))
        }


def main() -> None:
    parser = HfArgumentParser((EvaluationArguments, ProtocolArguments))
    args, protocols = parser.parse_args_into_dataclasses(with_config_file(sys.argv[1:]))
    results = evaluate_encoders(
        args.encoders(),
        load_recordings(
            args.data_dir,
            args.dataset_name,
            args.dataset_split,
            args.audio_column,
            args.where,
            config_name=args.dataset_config_name,
        ),
        args.label_column,
        protocols,
        label_separator=args.label_separator,
        group_column=args.group_column,
        fold_column=args.fold_column,
        on_error=args.on_error,
        batch_size=args.batch_size,
        output_dir=args.output_dir,
        cache_dir=args.cache_dir,
        settings=asdict(args),
        command=shlex.join(["python", *sys.argv]),
    )
    data = results["data"]
    print(f"\nMean and 95 % interval over trials on {data['clips']} clips of {len(data['classes'])} classes")
    print(score_table(results))
    report_skipped(data["skipped"])
    print(f"\nReport: {Path(args.output_dir) / 'report.html'}")


if __name__ == "__main__":
    main()
