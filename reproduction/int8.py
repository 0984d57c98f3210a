"""What int8 costs: accuracy, size and latency of ONNX graphs in float32 and int8, on ESC-10.

python reproduction/int8.py --model_name_or_path model_cards/uamix-mae-tiny --data ../shared/data --output_dir int8

Exports both graphs to the output folder and prints a row of docs/how_to/onnx.md. Accuracy is that of nearest-centroid
classification on fold 5: in 600 episodes of 5 classes with 5 labelled clips, as in examples/few_shot.py, and with the
centroids of folds 1 to 4. Latencies are of one clip of 5 s on one thread, the sides in turns, as ratios with the least
and largest of any round.
"""

import statistics
import timeit
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers import HfArgumentParser

from uamix_hf import AudioEmbedder
from uamix_hf.data import column_as_text, load_recordings, read_groups
from uamix_hf.embedding.windows import average_windows
from uamix_hf.evaluation import few_shot_accuracy, nearest_centroid, paired_difference
from uamix_hf.hub import export_onnx


@dataclass
class Int8Arguments:
    model_name_or_path: str = field(metadata={"help": "Encoder."})
    output_dir: str = field(metadata={"help": "Folder for the graphs; those that are there are not made again."})
    data: str = field(default="../shared/data", metadata={"help": "Folder that holds esc10."})
    episodes: int = field(default=600, metadata={"help": "Few-shot episodes."})
    rounds: int = field(default=15, metadata={"help": "Rounds that are timed, after one that is not."})


def session_of(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options)


def embed(session: onnxruntime.InferenceSession, waves: list[np.ndarray]) -> np.ndarray:
    """Embeddings (clips, size) float64 of a batch."""
    lengths = np.array([len(wave) for wave in waves])
    padded = np.zeros((len(waves), lengths.max()), np.float32)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    inputs = {"waveforms": padded, "lengths": lengths}
    (found,) = session.run(None, {given.name: inputs[given.name] for given in session.get_inputs()})
    return found.astype(np.float64)


def ratio(first: Callable[[], object], second: Callable[[], object], rounds: int) -> str:
    """How many times as long the second takes as the first: median, least and largest of the rounds."""
    times = [(timeit.timeit(first, number=1), timeit.timeit(second, number=1)) for _ in range(rounds + 1)][1:]
    ratios = [theirs / ours for ours, theirs in times]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def main() -> None:
    (args,) = HfArgumentParser(Int8Arguments).parse_args_into_dataclasses()
    torch.set_num_threads(1)
    recordings = load_recordings(str(Path(args.data) / "esc10"))
    test = np.array(column_as_text(recordings, "fold")) == "5"
    labels = np.unique(column_as_text(recordings, "label"), return_inverse=True)[1]
    groups = read_groups(recordings, "src_file")
    embedder = AudioEmbedder.from_pretrained(args.model_name_or_path, device="cpu")
    bank = embedder.feature_extractor.filter_bank
    sources, size = recordings["audio"][:], embedder.embedding_size
    embeddings = {"AudioEmbedder": embedder.encode(sources)}
    sessions, files = {}, {}
    for name in ("float32", "int8"):
        files[name] = Path(args.output_dir) / f"{Path(args.model_name_or_path).name}-{name}.onnx"
        if not files[name].exists():
            files[name].parent.mkdir(parents=True, exist_ok=True)
            export_onnx(args.model_name_or_path, files[name], int8=name == "int8")
        session = sessions[name] = session_of(files[name])

        def compute(waves: list[np.ndarray], session: onnxruntime.InferenceSession = session) -> tuple:
            return embed(session, waves), np.array([bank.frames(len(wave)) for wave in waves])

        embeddings[name] = average_windows(embedder.batches(sources, 8), compute, size)
    scores = {
        name: few_shot_accuracy(vectors[test], labels[test], groups[test], episodes=args.episodes)
        for name, vectors in embeddings.items()
    }
    for name, vectors in embeddings.items():
        found = nearest_centroid(vectors[~test], labels[~test], vectors[test])
        centroids = 100 * (found == labels[test]).mean()
        off = np.abs(vectors - embeddings["AudioEmbedder"])
        print(
            f"{name}: 5-shot {100 * scores[name].mean:.2f}, centroids of folds 1-4 {centroids:.2f}, largest difference "
            f"of an embedding {off.max():.2g}, of values up to {np.abs(embeddings['AudioEmbedder']).max():.3g}"
        )
    print("int8 minus float32, 5-shot:", paired_difference(scores["float32"], scores["int8"]))
    print("MB:", {name: round(file.stat().st_size / 1e6, 2) for name, file in files.items()})
    clip = next(iter(embedder.windows(sources[:1])))[1]
    sides = {name: lambda session=session: embed(session, [clip]) for name, session in sessions.items()}
    print("speed of float32 over AudioEmbedder:", ratio(sides["float32"], lambda: embedder.embed([clip]), args.rounds))
    print("speed of int8 over float32:", ratio(sides["int8"], sides["float32"], args.rounds))


if __name__ == "__main__":
    main()
