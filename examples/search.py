"""Search recordings by example; the index is made by the first call, and a later one adds what is new in the folder:

python examples/search.py --model_name_or_path tuned --data_dir recordings --index_dir index --query example.wav
"""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from uamix_hf.data import report_skipped
from uamix_hf.search import AudioIndex, Changes
from uamix_hf.training import EncoderArguments


@dataclass
class SearchArguments:
    index_dir: str = field(metadata={"help": "Folder of the index, made if it does not exist."})
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of audio that the index is brought up to date with."}
    )
    query: list[str] = field(default_factory=list, metadata={"help": "Clips to find similar places of."})
    top_k: int = field(default=10, metadata={"help": "Places for each clip."})
    duplicates: float | None = field(
        default=None,
        metadata={"help": "Report recordings that share windows of this cosine similarity or more, such as 0.95."},
    )
    window_seconds: float | None = field(
        default=None, metadata={"help": "Length of a window in s; that of the index if unset, or 2 in a new one."}
    )
    batch_size: int = field(default=16, metadata={"help": "Batch size of the encoder."})

    def __post_init__(self) -> None:
        if self.data_dir is None and not self.query and self.duplicates is None:
            raise ValueError("Nothing to do: give --data_dir, --query or --duplicates.")


def report_changes(changes: Changes) -> None:
    print(f"{len(changes.added)} recordings added, {changes.kept} as they were")
    for what, names in (("embedded again", changes.changed), ("no longer in the folder", changes.removed)):
        if names:
            print(f"{len(names)} {what}: {', '.join(names)}")
    report_skipped(changes.unreadable)


def main() -> None:
    encoder_args, args = HfArgumentParser((EncoderArguments, SearchArguments)).parse_args_into_dataclasses()
    index = AudioIndex(args.index_dir, encoder_args.load_embedder(), args.window_seconds)
    if args.data_dir is not None:
        report_changes(index.update(args.data_dir, args.batch_size))
    for query in args.query:
        print(f"\n{query}\nsimilarity    start s      end s  file")
        for hit in index.search(query, args.top_k):
            print(f"{hit.similarity:10.3f} {hit.start:10.1f} {hit.end:10.1f}  {hit.file}")
    if args.duplicates is not None:
        pairs = index.duplicates(args.duplicates)
        print(
            f"\n{len(pairs)} pairs of recordings share windows\nsimilarity      share  file (start s) = file (start s)"
        )
        for pair in pairs:
            places = f"{pair.file} ({pair.start:.1f}) = {pair.other} ({pair.other_start:.1f})"
            print(f"{pair.similarity:10.3f} {pair.share:10.0%}  {places}")


if __name__ == "__main__":
    main()
