"""Decoding overlaps with embedding and changes nothing else: items, order, errors, warnings; no thread is left."""

import contextvars
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from uamix_hf import (
    AudioDecodeError,
    AudioEmbedder,
    AudioMAEConfig,
    AudioMAEFeatureExtractor,
    AudioMAEModel,
    TruncatedAudioWarning,
)
from uamix_hf.embedding import embed_to_shards, parts
from uamix_hf.embedding import embedder as embedder_module
from uamix_hf.embedding.read_ahead import read_ahead

RATE, WINDOW = 16_000, 63 * 160 + 400  # samples of 64 whole frames
PATIENCE = 30  # s, after which a test has failed


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("read-ahead")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == []


@pytest.fixture(scope="module")
def embedder() -> AudioEmbedder:
    torch.manual_seed(0)
    config = AudioMAEConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=32, max_length=64
    )
    model = AudioMAEModel(config)
    torch.nn.init.normal_(model.embeddings.patch_embeddings.projection.weight, std=0.2)
    return AudioEmbedder(model, AudioMAEFeatureExtractor(max_length=64))


def write(path: Path, samples: int, seed: int = 0) -> Path:
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, samples), RATE, subtype="PCM_16")
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Of mixed length, one of them long."""
    lengths = np.random.default_rng(1).integers(400, 2 * WINDOW, 70).tolist()
    lengths[3] = 20 * WINDOW + 5000
    return [write(tmp_path / f"{number}.wav", length, number) for number, length in enumerate(lengths)]


def test_items_come_in_order_from_one_thread() -> None:
    seen: list[str] = []

    def source() -> Iterator[int]:
        for number in range(20):
            seen.append(threading.current_thread().name)
            yield number

    assert list(read_ahead(source(), 3)) == list(range(20))
    assert set(seen[:2]) == {threading.current_thread().name} and set(seen[2:]) == {"read-ahead_0"}


@pytest.mark.parametrize("count", [0, 1])
def test_a_single_item_needs_no_thread(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("A thread was started."))
    assert list(read_ahead(iter(range(count)), 3)) == list(range(count))


@pytest.mark.parametrize("ahead", [1, 3])
def test_so_many_items_are_read_ahead_and_no_more(ahead: int) -> None:
    reached = [threading.Event() for _ in range(20)]

    def source() -> Iterator[int]:
        for number in range(20):
            reached[number].set()
            yield number

    items = read_ahead(source(), ahead)
    for number in range(10):
        assert next(items) == number
        if number >= 2:
            assert reached[number + ahead].wait(PATIENCE)
            assert not reached[number + ahead + 1].wait(0.02)
    items.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", [0, 1, 2, 7])
def test_an_error_is_raised_where_its_item_would_have_been(place: int) -> None:
    def source() -> Iterator[int]:
        for number in range(10):
            if number == place:
                raise OSError(f"number {number}")
            yield number

    items, seen = read_ahead(source(), 4), []
    with pytest.raises(OSError, match=f"number {place}") as caught:
        for item in items:
            seen.append(item)
    assert seen == list(range(place))
    assert any(entry.name == "source" for entry in caught.traceback)
    assert next(items, None) is None


def test_stopping_early_ends_the_thread_though_the_source_is_endless() -> None:
    def source() -> Iterator[int]:
        number = 0
        while True:
            yield (number := number + 1)

    for stop in (2, 3, 9):
        items = read_ahead(source(), 5)
        assert [next(items) for _ in range(stop)] == list(range(1, stop + 1))
        items.close()  # type: ignore[attr-defined]
        assert threads() == []


def test_the_source_has_the_context_and_the_modes_of_the_caller() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="lost")

    def source() -> Iterator[tuple[str, bool, bool]]:
        for _ in range(5):
            yield variable.get(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    variable.set("kept")
    assert set(read_ahead(source(), 1)) == {("kept", True, False)}
    with torch.no_grad():
        assert set(read_ahead(source(), 1)) == {("kept", False, False)}
    with torch.inference_mode():
        assert set(read_ahead(source(), 1)) == {("kept", False, True)}


def test_embeddings_are_those_without_a_thread(
    embedder: AudioEmbedder, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything(folder: Path) -> list[np.ndarray]:
        frames = embedder.encode_frames(files, batch_size=3, progress_bar=False)
        embed_to_shards(embedder, tmp_path, folder, batch_size=3, progress_bar=False)
        rows = [path.read_bytes() for path in sorted((folder / "vectors").iterdir())]
        return [
            embedder.encode(files, batch_size=3, progress_bar=False),
            embedder.encode(iter(files), batch_size=3, progress_bar=False),
            embedder.encode(files[3], batch_size=3),
            *(one.embeddings for one in frames),
            *(np.frombuffer(row, np.uint8) for row in rows),
        ]

    started: list[str] = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: (started.append(self.name), start(self))[1])
    ahead = everything(tmp_path.parent / f"{tmp_path.name}-ahead")
    assert started.count("read-ahead_0") == 5
    monkeypatch.setattr(embedder_module, "read_ahead", lambda source, ahead: source)
    monkeypatch.setattr(parts, "read_ahead", lambda source, ahead: source)
    plain = everything(tmp_path.parent / f"{tmp_path.name}-plain")
    assert started.count("read-ahead_0") == 5
    for one, other in zip(ahead, plain, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("length", "sorted_together"), [(WINDOW, 2), (9000, 32)])
def test_the_next_batch_is_decoded_while_the_encoder_computes(
    embedder: AudioEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, sorted_together: int
) -> None:
    """Each batch is embedded only after the next one has been decoded: without overlap it would wait in vain."""
    count = 100
    decoded = [threading.Event() for _ in range(count)]
    windows, embed, done = embedder.windows, embedder.embed, []

    def windows_told(inputs):
        for number, item in enumerate(windows(inputs)):
            decoded[number].set()
            yield item

    def embed_late(waves: list[np.ndarray]):
        done.append(len(waves))
        taken = sorted_together + 2 * (len(done) - 1)
        if taken > 2:  # the caller reads the first two
            assert decoded[min(taken + 2, count) - 1].wait(PATIENCE)
        return embed(waves)

    path = write(tmp_path / "clip.wav", length)
    expected = embedder.encode(path)
    monkeypatch.setattr(embedder, "windows", windows_told)
    monkeypatch.setattr(embedder, "embed", embed_late)
    found = embedder.encode([path] * count, batch_size=2, progress_bar=False)
    np.testing.assert_allclose(found, np.repeat(expected[None], count, axis=0), atol=1e-6)
    assert done == [2] * (count // 2)


def test_arrays_need_no_thread(embedder: AudioEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("A thread was started."))
    waves = [np.full(length, 0.1, np.float32) for length in (900, 5 * WINDOW, 400)]
    for inputs in (waves, [torch.from_numpy(wave) for wave in waves], np.stack([waves[0]] * 3), waves[1]):
        embedder.encode(inputs, progress_bar=False)


def test_warnings_and_errors_of_files_reach_the_caller(embedder: AudioEmbedder, files: list[Path]) -> None:
    whole = files[50].read_bytes()
    files[50].write_bytes(whole[: -len(whole) // 20])
    with pytest.warns(TruncatedAudioWarning, match="50.wav"):
        embedder.encode(files, batch_size=4, progress_bar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TruncatedAudioWarning, match="50.wav"):
            embedder.encode(files, batch_size=4, progress_bar=False)
    files[50].write_text("no sound")
    with pytest.raises(AudioDecodeError, match="50.wav"):
        embedder.encode(files, batch_size=4, progress_bar=False)
    assert threads() == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_the_encoder_ends_the_thread(
    embedder: AudioEmbedder, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type
) -> None:
    def fail(*args) -> None:
        raise error("overheated")

    monkeypatch.setattr(embedder, "embed", fail)
    monkeypatch.setattr(embedder, "embed_frames", fail)
    for work in (
        lambda: embedder.encode(files, batch_size=2, progress_bar=False),
        lambda: embedder.encode_frames(files, batch_size=2, progress_bar=False),
        lambda: embed_to_shards(embedder, tmp_path, tmp_path.parent / "out", batch_size=2, progress_bar=False),
    ):
        with pytest.raises(error, match="overheated") as caught:  # its traceback keeps the generators
            work()
        assert threads() == [] and caught.value
