"""Embed recordings: one vector each into a NumPy file,

python examples/embed.py --model_name_or_path tuned --data_dir recordings --output_file vectors.npz

or a vector for each window into Parquet files, by several processes, continued where it stopped:

accelerate launch examples/embed.py --model_name_or_path tuned --data_dir recordings --output_dir embeddings
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from transformers import HfArgumentParser

from uamix_hf.data import leave_out_unreadable, load_recordings, report_skipped
from uamix_hf.data.checks import refuse_idle
from uamix_hf.embedding import embed_to_shards
from uamix_hf.training import EncoderArguments
from uamix_hf.training.distributed import launched_process


@dataclass
class EmbeddingArguments:
    data_dir: str = field(
        metadata={"help": "Folder of audio; for --output_dir also the URL of one: s3://bucket/audio."}
    )
    output_file: str | None = field(
        default=None,
        metadata={"help": "The .npz file to write: vectors (clips, embedding_size) and file_name (clips,)."},
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of Parquet files to write or continue instead: file, start, end, vector."},
    )
    where: list[str] = field(
        default_factory=list, metadata={"help": "Rows to use: COLUMN=VALUE[,VALUE...].", "action": "extend"}
    )
    batch_size: int = field(default=16, metadata={"help": "Batch size of the encoder."})
    on_error: Literal["raise", "skip"] = field(
        default="raise",
        metadata={"help": "Whether an unreadable recording stops the run, or is left out and named."},
    )
    overlap: float = field(
        default=0.0, metadata={"help": "Seconds that two windows, of --max_length frames each, have in common."}
    )
    shard_size: int | None = field(
        default=None, metadata={"help": "Recordings of a shard, the least that a process works on; 1000 if unset."}
    )

    def __post_init__(self) -> None:
        if (self.output_file is None) == (self.output_dir is None):
            raise ValueError("Give either --output_file or --output_dir.")
        if self.output_dir is None:
            refuse_idle(self, ("overlap", "shard_size"), "output_dir")
            if not str(self.output_file).endswith(".npz"):  # NumPy would write to another name
                raise ValueError(f"--output_file {self.output_file} does not end in .npz.")


def write_shards(encoder_args: EncoderArguments, args: EmbeddingArguments) -> None:
    rank, processes, device = launched_process()
    remote = "://" in args.data_dir and not args.where
    report = embed_to_shards(
        encoder_args.load_embedder(device),
        args.data_dir if remote else load_recordings(args.data_dir, where=args.where),
        str(args.output_dir),
        overlap=args.overlap,
        shard_size=args.shard_size,
        batch_size=args.batch_size,
        on_error=args.on_error,
        process=(rank, processes),
    )
    done = f"{report.recordings} recordings in {report.rows} windows, and could not read {report.failed}"
    print(f"Process {rank} embedded {done}: {args.output_dir}")


def main() -> None:
    encoder_args, args = HfArgumentParser((EncoderArguments, EmbeddingArguments)).parse_args_into_dataclasses()
    if args.output_dir is not None:
        write_shards(encoder_args, args)
        return
    recordings = load_recordings(args.data_dir, where=args.where)
    if args.on_error == "skip":
        recordings, skipped = leave_out_unreadable(recordings)
        report_skipped(skipped)
    vectors = encoder_args.load_embedder().encode(recordings["audio"][:], batch_size=args.batch_size)
    np.savez(args.output_file, vectors=vectors, file_name=np.array(recordings["file_name"][:]))
    print(f"Wrote {vectors.shape[0]} embeddings of {vectors.shape[1]} dimensions to {args.output_file}")


if __name__ == "__main__":
    main()
