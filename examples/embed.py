"""Embed recordings; the embeddings and file names go into a NumPy file:

python examples/embed.py --model_name_or_path tuned --data_dir recordings --output_file vectors.npz
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from transformers import HfArgumentParser

from uamix_hf.data import leave_out_unreadable, load_recordings, report_skipped
from uamix_hf.training import EncoderArguments


@dataclass
class EmbeddingArguments:
    data_dir: str = field(metadata={"help": "Folder of audio."})
    output_file: str = field(
        metadata={"help": "The .npz file to write: vectors (clips, embedding_size) and file_name (clips,)."}
    )
    where: list[str] = field(
        default_factory=list, metadata={"help": "Rows to use: COLUMN=VALUE[,VALUE...].", "action": "extend"}
    )
    batch_size: int = field(default=16, metadata={"help": "Batch size of the encoder."})
    on_error: Literal["raise", "skip"] = field(
        default="raise",
        metadata={"help": "Whether an unreadable recording stops the run or is left out."},
    )


def main() -> None:
    encoder_args, args = HfArgumentParser((EncoderArguments, EmbeddingArguments)).parse_args_into_dataclasses()
    if not args.output_file.endswith(".npz"):  # NumPy would write to another name
        raise ValueError(f"--output_file {args.output_file} does not end in .npz.")
    recordings = load_recordings(args.data_dir, where=args.where)
    if args.on_error == "skip":
        recordings, skipped = leave_out_unreadable(recordings)
        report_skipped(skipped)
    vectors = encoder_args.load_embedder().encode(recordings["audio"][:], batch_size=args.batch_size)
    np.savez(args.output_file, vectors=vectors, file_name=np.array(recordings["file_name"][:]))
    print(f"Wrote {vectors.shape[0]} embeddings of {vectors.shape[1]} dimensions to {args.output_file}")


if __name__ == "__main__":
    main()
