"""Embed recordings by Ray Data, on one machine or a cluster; vectors of files go into Parquet files:

python examples/ray_embed.py --model_name_or_path tuned --data_dir recordings --output_dir vectors
"""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from uamix_hf import AudioEmbedder


@dataclass
class RayArguments:
    model_name_or_path: str = field(metadata={"help": "Encoder: folder or Hub repository."})
    data_dir: str = field(metadata={"help": "Folder of audio alone, or its URL: s3://bucket/audio."})
    output_dir: str = field(metadata={"help": "Folder or URL of the Parquet files: path, vector."})
    workers: int = field(default=1, metadata={"help": "Copies of the encoder."})
    gpus_per_worker: float = field(default=0.0, metadata={"help": "GPUs of each copy; 0 for the CPU."})
    batch_size: int = field(default=64, metadata={"help": "Recordings that a copy is given at once."})


class Embed:
    """The batch function: a copy in each worker, which loads the encoder once."""

    def __init__(self, model: str):
        self.embedder = AudioEmbedder.from_pretrained(model)

    def __call__(self, batch: dict) -> dict:
        files = [{"bytes": content, "path": path} for content, path in zip(batch["bytes"], batch["path"], strict=True)]
        return {"path": batch["path"], "vector": self.embedder.encode(files, progress_bar=False)}


def main() -> None:
    (args,) = HfArgumentParser(RayArguments).parse_args_into_dataclasses()
    import ray  # after --help, which needs none

    files = ray.data.read_binary_files(args.data_dir, include_paths=True)
    vectors = files.map_batches(
        Embed,
        fn_constructor_args=(args.model_name_or_path,),
        batch_size=args.batch_size,
        concurrency=args.workers,
        num_gpus=args.gpus_per_worker,
    )
    vectors.write_parquet(args.output_dir)
    print(f"Wrote the vectors to {args.output_dir}")


if __name__ == "__main__":
    main()
