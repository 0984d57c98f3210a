"""Embeddings of FLAC files of mixed length, and of long ones, against sentence-transformers and transformers' pipeline.

Both peers run transformers' ASTForAudioClassification or its encoder, of the hidden size, layers and heads of our
Audio-MAE encoder, with random weights; they are given what soundfile reads, since that takes neither FFmpeg nor
torchcodec, and read it within the time that is taken. AST takes 1024 frames of any clip: shorter ones are padded, and
of longer ones the peers embed the beginning alone, so that for long files seconds of audio embedded are compared;
AudioEmbedder embeds all of it, in windows. Patches do not overlap, as Audio-MAE's; the released AST's do, with strides
of 10, which one more peer has. Besides, AudioEmbedder on the AST itself, where only front-end, reading and batches
differ. Batches of 8; 3 layers.

python benchmarks/embed_files.py
"""

import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from compare import interleaved, parse, ratio_row, report
from encoder import BASE, SMALL
from sentence_transformers import SentenceTransformer
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification, pipeline

from uamix_hf import AudioEmbedder, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel

RATE, BATCH = 16_000, 8
MIXED = (1.0, 10.0)  # seconds of the shortest and the longest file
CLIPS, LONG_FILES, LONG_SECONDS = 32, 2, 60
AST_SECONDS = 0.01 * 1023 + 0.025  # 1024 frames
BAR = 2.0


def write_files(folder: Path, seconds: np.ndarray) -> list[str]:
    """FLAC files of noise, so many seconds each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = [str(folder / f"{number}.flac") for number in range(len(seconds))]
    for file, duration in zip(files, seconds, strict=True):
        soundfile.write(file, 0.1 * rng.standard_normal(round(duration * RATE)), RATE)
    return files


def save_models(folder: Path, size: dict[str, Any]) -> tuple[str, str, str]:
    """Folders of an Audio-MAE encoder, and of AST classifiers with patches that do not overlap and that do."""
    torch.manual_seed(0)
    ours, peer, released = (str(folder / name) for name in ("audio_mae", "ast", "ast_as_released"))
    AudioMAEModel(AudioMAEConfig(**size)).save_pretrained(ours)
    AudioMAEFeatureExtractor().save_pretrained(ours)
    for name, strides in ((peer, {"frequency_stride": 16, "time_stride": 16}), (released, {})):
        ASTForAudioClassification(ASTConfig(**size, **strides)).save_pretrained(name)
        ASTFeatureExtractor().save_pretrained(name)
    return ours, peer, released


def read(files: list[str]) -> list[np.ndarray]:
    """Samples of each file, float32."""
    return [soundfile.read(file, dtype="float32")[0] for file in files]


def embedders(ours: str, peer: str, released: str) -> dict[str, Callable[[list[str]], Any]]:
    """Functions of a list of files, by name."""
    sentences, overlapping = (SentenceTransformer(model, device="cpu") for model in (peer, released))
    classify = pipeline("audio-classification", model=peer, device="cpu", batch_size=BATCH)
    own, own_ast = (AudioEmbedder.from_pretrained(model, "cpu") for model in (ours, peer))
    options = {"batch_size": BATCH, "progress_bar": False}

    def encode(model: SentenceTransformer, files: list[str]) -> np.ndarray:
        values = [{"array": wave, "sampling_rate": RATE} for wave in read(files)]
        return model.encode(values, batch_size=BATCH, show_progress_bar=False)

    return {
        "ours": partial(own.encode, **options),
        "ours, AST": partial(own_ast.encode, **options),
        "sentence-transformers": partial(encode, sentences),
        "AST as released": partial(encode, overlapping),
        "pipeline": lambda files: classify(read(files)),
    }


def main() -> None:
    args = parse()
    size = SMALL if args.small else BASE
    clips, long_seconds = (4, 12) if args.small else (CLIPS, LONG_SECONDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mixed = write_files(folder / "mixed", np.linspace(*MIXED, clips))
        long = write_files(folder / "long", np.full(LONG_FILES, float(long_seconds)))
        embed = embedders(*save_models(folder, size))
        seconds = interleaved({side: partial(work, mixed) for side, work in embed.items()}, args.repeats)
        sides = ("ours, AST", "sentence-transformers")
        of_long = interleaved({side: partial(embed[side], long) for side in sides}, args.repeats)
    # Of a second of audio: the peer embeds the beginning alone.
    embedded = {sides[0]: LONG_FILES * long_seconds, sides[1]: LONG_FILES * min(AST_SECONDS, long_seconds)}
    per_second = {side: [one / embedded[side] for one in of_long[side]] for side in sides}
    shape = f"hidden size {size['hidden_size']}, {size['num_hidden_layers']} layers"
    files = f"{clips} files of {MIXED[0]:g} to {MIXED[1]:g} s, {shape}"
    rows = [
        ratio_row(case, {side: seconds[side] for side in (own, peer)}, clips, "files", bar)
        for case, own, peer, bar in (
            (f"Audio-MAE against AST in sentence-transformers, {files}", "ours", "sentence-transformers", BAR),
            (f"Audio-MAE against AST in transformers' pipeline, {files}", "ours", "pipeline", BAR),
            (f"Audio-MAE against AST as released in sentence-transformers, {files}", "ours", "AST as released", BAR),
            (f"the same AST as in sentence-transformers, {files}", *sides, None),
            (f"the same AST as in transformers' pipeline, {files}", "ours, AST", "pipeline", None),
        )
    ]
    case = f"the same AST as in sentence-transformers, {LONG_FILES} files of {long_seconds} s, {shape}"
    rows.append(ratio_row(case, per_second, 1, "s of audio embedded"))
    peers = f"sentence-transformers {version('sentence-transformers')} and transformers' pipeline on AST"
    report("embed_files", peers, rows, args)


if __name__ == "__main__":
    main()
