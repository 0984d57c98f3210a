"""An hour of sound in a process of its own: memory stays bounded, and its vector is that of its windows."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from uamix_hf import AudioEmbedder, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel

RATE = 16_000
WINDOW = 1023 * 160 + 400  # samples of 1024 whole frames
HOUR = 3600 * RATE

# Peak memory is a process's own, and what its imports take is in that of the short recording.
CHILD = """
import json, resource, sys
from uamix_hf import AudioEmbedder
embedder = AudioEmbedder.from_pretrained(sys.argv[1], device="cpu")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
results = []
for path in sys.argv[2:]:
    vector = embedder.encode(path, batch_size=8)
    results.append({"vector": vector.tolist(), "peak": peak()})
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def embedder() -> AudioEmbedder:
    torch.manual_seed(0)
    config = AudioMAEConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, max_length=1024
    )
    model = AudioMAEModel(config)
    torch.nn.init.normal_(model.embeddings.patch_embeddings.projection.weight, std=0.2)
    return AudioEmbedder(model, AudioMAEFeatureExtractor())


def windows(samples: int) -> list[np.ndarray]:
    """Noise of seven colours and levels in turn, a window each and the rest, int16."""
    rng = np.random.default_rng(0)
    kinds = [
        (1500 * (kind + 1) * np.convolve(rng.standard_normal(WINDOW), np.ones(kind + 1) / (kind + 1), "same"))
        for kind in range(7)
    ]
    kinds = [np.clip(kind, -32768, 32767).astype(np.int16) for kind in kinds]
    return [kinds[place // WINDOW % 7][: samples - place] for place in range(0, samples, WINDOW)]


def write(path: Path, samples: int) -> None:
    with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16") as file:
        for window in windows(samples):
            file.write(window)


def in_a_process(folder: Path, paths: list[Path]) -> list[dict]:
    command = [sys.executable, "-c", CHILD, str(folder), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the resource module measures peak memory")
def test_an_hour_embeds_in_the_memory_of_minutes(embedder: AudioEmbedder, tmp_path: Path) -> None:
    encoder, short, long = tmp_path / "encoder", tmp_path / "short.flac", tmp_path / "an hour.flac"
    embedder.model.save_pretrained(encoder)
    embedder.feature_extractor.save_pretrained(encoder)
    write(short, HOUR // 20)
    write(long, HOUR)
    few, many = in_a_process(encoder, [short, long])
    assert many["peak"] - few["peak"] < 0.5 * 4 * HOUR  # half of what its samples alone would take, 230 MB
    parts = windows(HOUR)
    rest = parts[-1]
    assert 400 < len(rest) < WINDOW
    vectors = [embedder.encode(part).astype(np.float64) for part in (*parts[:7], rest)]
    assert np.linalg.norm(vectors[0] - vectors[6]) > 0.1  # or else any weights would do
    weights = [1024 * len(parts[kind:-1:7]) for kind in range(7)] + [1 + (len(rest) - 400) // 160]
    np.testing.assert_allclose(many["vector"], np.average(vectors, axis=0, weights=weights), atol=1e-5)


def test_the_number_of_threads_does_not_matter(embedder: AudioEmbedder) -> None:
    clips = [(window / 2**15).astype(np.float32) for window in windows(5 * WINDOW // 2)]
    alone = embedder.encode(clips, progress_bar=False)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        np.testing.assert_allclose(embedder.encode(clips, progress_bar=False), alone, atol=1e-5)
    finally:
        torch.set_num_threads(threads)


def test_a_blink_and_a_minute_share_a_batch(embedder: AudioEmbedder) -> None:
    rng = np.random.default_rng(1)
    clips = [(0.1 * rng.standard_normal(round(RATE * seconds))).astype(np.float32) for seconds in (0.03, 60, 0.03, 1)]
    alone = np.stack([embedder.encode(wave) for wave in clips])
    together = embedder.encode(clips, batch_size=32, progress_bar=False)
    cosine = (alone * together).sum(1) / np.linalg.norm(alone, axis=1) / np.linalg.norm(together, axis=1)
    assert np.isfinite(together).all() and cosine.min() > 1 - 1e-6
    assert np.linalg.norm(alone[0] - alone[1]) > 1e-3  # or else all would agree with all
