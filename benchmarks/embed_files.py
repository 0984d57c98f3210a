"""Embeddings of FLAC files of mixed length, and of an hour, against sentence-transformers and transformers' pipeline.

Both peers run transformers' ASTForAudioClassification or its encoder, of the hidden size, layers and heads of our
Audio-MAE encoder, with random weights; they are given what soundfile reads, since that takes neither FFmpeg nor
torchcodec, and read it within the time that is taken. AST takes 1024 frames of any clip: shorter ones are padded, and
of longer ones the peers would embed the beginning alone; so an hour is cut for them into the windows that AudioEmbedder
takes. Patches do not overlap, as Audio-MAE's; the released AST's do, with strides of 10, which one more peer has.
Besides, AudioEmbedder on the AST itself, where only front-end, reading and batches differ. Batches of 8; 3 layers. The
500 files and the hour are embedded once, after the rounds of the few.

python benchmarks/embed_files.py
"""

import tempfile
from collections.abc import Callable, Sequence
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
FEW, MANY, LONG = 32, 500, 3600  # files, files, seconds of one file
SMALL_SIZES = (4, 6, 12)
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

    def encode(model: SentenceTransformer, files: list[str], window: int | None = None) -> np.ndarray:
        waves = read(files)
        if window:
            waves = [wave[start : start + window] for wave in waves for start in range(0, len(wave), window)]
        values = [{"array": wave, "sampling_rate": RATE} for wave in waves]
        return model.encode(values, batch_size=BATCH, show_progress_bar=False)

    return {
        "ours": partial(own.encode, **options),
        "ours, AST": partial(own_ast.encode, **options),
        "sentence-transformers": partial(encode, sentences),
        "AST as released": partial(encode, overlapping),
        "cut into windows": partial(encode, sentences, window=own_ast.window_samples),
        "pipeline": lambda files: classify(read(files)),
    }


def main() -> None:
    args = parse()
    size = SMALL if args.small else BASE
    few, many, seconds = SMALL_SIZES if args.small else (FEW, MANY, LONG)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        embed = embedders(*save_models(folder, size))
        hour = write_files(folder / "hour", np.full(1, float(seconds)))

        def times(count: int, sides: Sequence[str], **rounds: int) -> dict[str, list[float]]:
            files = write_files(folder / str(count), np.linspace(*MIXED, count))
            return interleaved({side: partial(embed[side], files) for side in sides}, **rounds)

        of_few = times(few, [side for side in embed if side != "cut into windows"], repeats=args.repeats)
        of_many = times(many, ("ours", "sentence-transformers", "pipeline"), repeats=1, untimed_rounds=0)
        sides = ("ours, AST", "cut into windows")
        of_hour = interleaved({side: partial(embed[side], hour) for side in sides}, repeats=1, untimed_rounds=0)
    shape = f"hidden size {size['hidden_size']}, {size['num_hidden_layers']} layers"
    lengths = f"files of {MIXED[0]:g} to {MIXED[1]:g} s, {shape}"
    audio_mae, same = "Audio-MAE against AST", "the same AST as in"
    rows = [
        ratio_row(f"{case}, {count} {lengths}", {side: found[side] for side in (own, peer)}, count, "files", bar)
        for count, found, case, own, peer, bar in (
            (many, of_many, f"{audio_mae} in sentence-transformers", "ours", "sentence-transformers", BAR),
            (many, of_many, f"{audio_mae} in transformers' pipeline", "ours", "pipeline", BAR),
            (few, of_few, f"{audio_mae} in sentence-transformers", "ours", "sentence-transformers", BAR),
            (few, of_few, f"{audio_mae} in transformers' pipeline", "ours", "pipeline", BAR),
            (few, of_few, f"{audio_mae} as released in sentence-transformers", "ours", "AST as released", BAR),
            (few, of_few, f"{same} sentence-transformers", "ours, AST", "sentence-transformers", None),
            (few, of_few, f"{same} transformers' pipeline", "ours, AST", "pipeline", None),
        )
    ]
    rows.append(
        ratio_row(f"{same} sentence-transformers, a file of {seconds} s, {shape}", of_hour, seconds, "s of audio")
    )
    peers = f"sentence-transformers {version('sentence-transformers')} and transformers' pipeline on AST"
    report("embed_files", peers, rows, args)


if __name__ == "__main__":
    main()
