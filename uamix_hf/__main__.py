"""The console command `uamix-hf`, also `python -m uamix_hf`."""

import argparse
import platform
import sys
from collections.abc import Sequence

from .hub.export import export_encoder
from .hub.graphs import export_onnx, export_program
from .hub.module_files import export_sentence_transformer
from .models.checkpoint import CheckpointError
from .models.conversion import SYSTEMS, convert
from .version import PACKAGES, package_versions

# What checkpoints of some systems do not record; each conversion refuses the options that it does not take.
CONVERSION_OPTIONS: dict[str, tuple[type, str]] = {
    "num_attention_heads": (int, "asit, audiomae, birdmae, matpac, passt, ssast: of the encoder (if not size / 64)"),
    "decoder_num_attention_heads": (int, "audiomae, birdmae: of the decoder (if not hidden size / 32)"),
    "max_length": (int, "ssast: frames to which the positions of a pretrained model are resized"),
    "time_stride": (int, "ssast: frames from patch to patch, of the model to make or of fine-tuning"),
    "mel_stride": (int, "ssast: mel bins from patch to patch, likewise"),
    "pooling": (str, "ssast: mean (of the patch tokens) or mean_prefix (of class and distillation token)"),
    "network": (str, "asit: teacher or student"),
    "mean": (float, "openbeats: mean of the log-mels (if not that of the checkpoint, or else BEATs')"),
    "std": (float, "openbeats: standard deviation of the log-mels (likewise)"),
    "max_distance": (int, "openbeats: largest relative position in tokens (if not the checkpoint's, or else 800)"),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="uamix-hf", description="Audio-MAE and uaMix for transformers.")
    commands = parser.add_subparsers(dest="command", required=True)
    converter = commands.add_parser(
        "convert", help="convert another project's checkpoint", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    converter.add_argument("system", choices=sorted(SYSTEMS), help="project that the checkpoint comes from")
    converter.add_argument("source", help="checkpoint file, folder that holds one, or repository on the Hub")
    converter.add_argument("target", help="folder to write, for from_pretrained")
    for name, (kind, text) in CONVERSION_OPTIONS.items():
        converter.add_argument(f"--{name}", type=kind, help=text)
    exporter = commands.add_parser(
        "export", help="write an encoder alone: in half precision to publish it, or for another library or runtime"
    )
    exporter.add_argument("source", help="folder or repository of a pretrained or tuned encoder")
    exporter.add_argument("target", help="folder to write, for from_pretrained; with --onnx or --pt2 a file")
    forms = exporter.add_mutually_exclusive_group()
    forms.add_argument(
        "--sentence_transformers",
        action="store_true",
        help="write an encoder of any kind, in float32, so that SentenceTransformer(target, trust_remote_code=True) "
        "loads it",
    )
    forms.add_argument(
        "--onnx",
        action="store_true",
        help="write one .onnx file from waveforms to embeddings, for ONNX Runtime and servers; needs uamix_hf[onnx]",
    )
    forms.add_argument(
        "--pt2", action="store_true", help="write one .pt2 file from waveforms to embeddings, for torch.export.load"
    )
    exporter.add_argument(
        "--int8", action="store_true", help="with --onnx: store the weights of the encoder's layers as int8"
    )
    commands.add_parser("env", help="print versions, for bug reports")
    return parser


def environment() -> str:
    """Versions of Python and of every package that matters, one a line."""
    lines = [f"python {platform.python_version()} on {platform.platform()}"]
    versions = package_versions()
    lines += [f"{name} {versions.get(name, 'not installed')}" for name in ("uamix_hf", *PACKAGES)]
    return "\n".join(lines)


def export(args: argparse.Namespace) -> None:
    """Writes an encoder in the form that is wanted.

    Raises:
        ValueError: `--int8` without `--onnx`.
    """
    if args.int8 and not args.onnx:
        raise ValueError("--int8 is a form of --onnx: give both.")
    if args.onnx:
        export_onnx(args.source, args.target, int8=args.int8)
    elif args.pt2:
        export_program(args.source, args.target)
    else:
        write = export_sentence_transformer if args.sentence_transformers else export_encoder
        write(args.source, args.target)


def main(arguments: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(arguments)
    if args.command == "env":
        print(environment())
        return 0
    if args.command == "export":
        try:
            export(args)
        except (ImportError, OSError, TypeError, ValueError) as error:
            print(f"uamix-hf: {error}", file=sys.stderr)
            return 1
        print(f"wrote {args.target}")
        return 0
    try:
        options = {name: getattr(args, name) for name in CONVERSION_OPTIONS if getattr(args, name) is not None}
        report = convert(args.system, args.source, args.target, **options)
    except CheckpointError as error:
        print(f"uamix-hf: {error}", file=sys.stderr)
        return 1
    print(report)
    print(f"wrote {args.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
