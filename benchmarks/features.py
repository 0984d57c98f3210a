"""Log-mel spectrograms of 32 clips of 10 s in memory, on one thread whatever `--threads` says, against two peers.

The first is transformers' ASTFeatureExtractor as it works without torchaudio, in NumPy: both pad to 1024 frames,
normalise, and return tensors. The second is Kaldi's algorithm written out in torch, clip by clip: both remove a clip's
mean and return raw log-mels.

python benchmarks/features.py
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from compare import interleaved, parse, ratio_row, report
from kaldi_fbank import fbank, mel_banks
from threadpoolctl import threadpool_limits
from transformers import ASTFeatureExtractor
from transformers.utils import is_speech_available

from uamix_hf import AudioMAEFeatureExtractor

RATE = 16_000


def make_clips(count: int, seconds: float) -> list[np.ndarray]:
    """Noise, (samples,) float32."""
    generator = np.random.default_rng(0)
    return [generator.normal(0, 0.1, int(RATE * seconds)).astype(np.float32) for _ in range(count)]


def numpy_sides(clips: list[np.ndarray]) -> dict[str, Callable[[], torch.Tensor]]:
    """Ours and AST's, each to what a model reads: (clips, 1024, 128)."""
    if is_speech_available():
        raise SystemExit("ASTFeatureExtractor takes torchaudio where it is installed: measure without it.")
    ours, peer = AudioMAEFeatureExtractor(), ASTFeatureExtractor()
    return {
        "ours": lambda: ours(clips, RATE, padding="max_length", return_tensors="pt").input_values,
        "ASTFeatureExtractor": lambda: peer(clips, RATE, return_tensors="pt").input_values,
    }


def kaldi_sides(clips: list[np.ndarray]) -> dict[str, Callable[[], list[torch.Tensor]]]:
    """Ours and Kaldi's, each to raw log-mels (frames, 128) of every clip."""
    ours, banks = AudioMAEFeatureExtractor(), mel_banks()

    def one_by_one() -> list[torch.Tensor]:
        waves = map(torch.from_numpy, clips)
        return [fbank(wave - wave.mean(), banks) for wave in waves]

    return {"ours": lambda: ours.log_mels(clips), "Kaldi's algorithm": one_by_one}


def main() -> None:
    args = replace(parse(), threads=1)
    torch.set_num_threads(args.threads)
    count, seconds = (2, 1) if args.small else (32, 10)
    clips = make_clips(count, seconds)
    with threadpool_limits(args.threads):  # NumPy's matrix products have threads of their own
        against_numpy = interleaved(numpy_sides(clips), args.repeats)
        against_kaldi = interleaved(kaldi_sides(clips), args.repeats)
    size = f"{count} clips of {seconds} s"
    rows = [
        ratio_row(f"ASTFeatureExtractor in NumPy, {size}", against_numpy, count, "clips", bar=4.0),
        ratio_row(f"Kaldi's algorithm in torch, clip by clip, {size}", against_kaldi, count, "clips", bar=1.0),
    ]
    report("features", "transformers' ASTFeatureExtractor; Kaldi's algorithm in torch", rows, args)


if __name__ == "__main__":
    main()
