"""The index against a brute-force search with NumPy over windows that are cut and embedded one by one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("faiss", reason="search needs faiss: pip install 'uamix_hf[search]'")

from uamix_hf import AudioEmbedder, AudioInputError, DataError  # noqa: E402
from uamix_hf.search import AudioIndex, AudioIndexError  # noqa: E402

CARDS = Path(__file__).parents[2] / "model_cards"
RATE = 16_000
WINDOW = 1.0


@pytest.fixture(scope="module")
def embedder() -> AudioEmbedder:
    return AudioEmbedder.from_pretrained(str(CARDS / "uamix-mae-tiny"), "cpu")


def sound(seed: int, seconds: float) -> np.ndarray:
    """Tones that change every third of a second, in noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = rng.uniform(200, 4000, int(seconds * 3) + 1)[(time * 3).astype(int)]
    return (0.2 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE) + 0.02 * rng.normal(size=len(time))).astype(np.float32)


def write(folder: Path, name: str, samples: np.ndarray, rate: int = RATE) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, samples, rate)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Recordings of 0.4 to 6.3 s, one in a sub-folder and one at another rate."""
    for number, seconds in enumerate((6.3, 0.4, 1.0, 3.7)):
        write(tmp_path / "recordings", f"{number}.wav", sound(number, seconds))
    write(tmp_path / "recordings", "night/4.flac", sound(4, 2.1), 22_050)
    return tmp_path / "recordings"


def brute_force(embedder: AudioEmbedder, folder: Path) -> dict[tuple[str, float], np.ndarray]:
    """Unit embedding of each window by file and start, with none of the index's code."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        samples = load(embedder, path)
        half = int(WINDOW * RATE / 2)
        for start in range(0, max(len(samples) - half, 1), half):
            vector = embedder.encode(samples[start : start + 2 * half]).astype(np.float64)
            found[str(path.relative_to(folder)), start / RATE] = vector / np.linalg.norm(vector)
    return found


def load(embedder: AudioEmbedder, path: Path) -> np.ndarray:
    from uamix_hf import load_audio

    return load_audio(path, RATE)


def summary(index: AudioIndex, clip: np.ndarray) -> list[tuple[str, float, float]]:
    return [(hit.file, hit.start, round(hit.similarity, 4)) for hit in index.search(clip, 100)]


def test_similarities_and_places_are_those_of_brute_force(embedder, folder, tmp_path) -> None:
    index = AudioIndex(tmp_path / "index", embedder, WINDOW)
    index.update(folder, progress_bar=False)
    windows = brute_force(embedder, folder)
    assert index.vectors.ntotal == len(windows) == sum(entry.windows for entry in index.files.values())
    clip = load(embedder, folder / "3.wav")[8000:24000] + 0.01
    query = embedder.encode(clip).astype(np.float64)
    cosines = {place: vector @ query / np.linalg.norm(query) for place, vector in windows.items()}
    hits = index.search(clip, k=100)
    for hit in hits:
        assert hit.similarity == pytest.approx(cosines[hit.file, hit.start], abs=1e-4)
        assert hit.end == pytest.approx(min(hit.start + WINDOW, index.files[hit.file].seconds))
    expected: list[tuple[str, float]] = []
    for file, start in sorted(cosines, key=lambda place: -cosines[place]):
        if all(file != other or abs(start - begin) >= WINDOW for other, begin in expected):
            expected.append((file, start))
    assert [(hit.file, hit.start) for hit in hits] == expected
    assert index.search(clip, k=3) == hits[:3]
    assert (hits[0].file, hits[0].start) == ("3.wav", 0.5)


def test_a_long_query_is_compared_window_by_window(embedder, folder, tmp_path) -> None:
    index = AudioIndex(tmp_path / "index", embedder, WINDOW)
    index.update(folder, progress_bar=False)
    windows = brute_force(embedder, folder)
    clip = load(embedder, folder / "0.wav")[int(2.4 * RATE) : int(4.9 * RATE)]
    query = np.stack([embedder.encode(clip[start : start + RATE]) for start in range(0, 2 * RATE, RATE // 2)])
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    means: dict[tuple[str, float, float], float] = {}
    for file, start in windows:
        for skipped in range(4) if start == 0 else [0]:  # the query may begin before the recording
            aligned = enumerate(query[skipped:])
            terms = [vector @ windows[place] for j, vector in aligned if (place := (file, start + j / 2)) in windows]
            end = min(start + (len(terms) + 1) / 2, index.files[file].seconds)
            means[file, start, end] = max(means.get((file, start, end), -9.0), sum(terms) / 4)
    hits = index.search(clip, k=100)
    for hit in hits:
        assert hit.similarity == pytest.approx(means[hit.file, hit.start, hit.end], abs=1e-4)
    assert (hits[0].file, hits[0].start, hits[0].end) == ("0.wav", 2.5, 5.0)
    assert hits[0].similarity == pytest.approx(max(means.values()), abs=1e-4)


@pytest.mark.parametrize("start, length", [(0.0, 1.0), (13.5, 1.0), (29.0, 1.0), (20.25, 0.8), (7.0, 4.0)])
def test_a_clip_cut_out_of_a_long_recording_is_found_at_its_time(embedder, long_index, start, length) -> None:
    index, samples = long_index
    clip = samples[int(start * RATE) : int((start + length) * RATE)]
    hit = index.search(clip, k=1)[0]
    assert hit.file == "long.flac" and hit.start < start + length and start < hit.end
    if length >= WINDOW and start % (WINDOW / 2) == 0:  # a window of the recording is one of the clip
        assert start <= hit.start <= start + length - WINDOW and hit.similarity == pytest.approx(1.0, abs=1e-4)


@pytest.fixture(scope="module")
def long_index(embedder, tmp_path_factory) -> tuple[AudioIndex, np.ndarray]:
    folder, samples = tmp_path_factory.mktemp("long"), sound(7, 30.0)
    write(folder / "recordings", "long.flac", samples)
    write(folder / "recordings", "other.flac", sound(8, 10.0))
    index = AudioIndex(folder / "index", embedder, WINDOW)
    index.update(folder / "recordings", progress_bar=False)
    return index, samples


def test_an_end_of_a_query_that_fills_no_window_is_left_out(embedder, folder, tmp_path) -> None:
    index = AudioIndex(tmp_path / "index", embedder, WINDOW)
    index.update(folder, progress_bar=False)
    clip = sound(0, 6.3)[RATE:]
    for whole, longer in ((1.0, 1.0003), (1.0, 1.45), (2.5, 2.51)):
        assert summary(index, clip[: int(longer * RATE)]) == summary(index, clip[: int(whole * RATE)])
    assert summary(index, clip[: int(1.5 * RATE)]) != summary(index, clip[:RATE])
    assert summary(index, clip[: RATE // 2])  # shorter than a window, it is all there is


@pytest.mark.slow
def test_clips_are_found_in_a_long_recording_of_real_sounds(esc10: Path, tmp_path: Path) -> None:
    """By the shipped Whisper encoder, in one file of 50 clips: 2 s that are cut out between its windows."""
    files = sorted(path for path in esc10.rglob("*") if path.suffix in (".wav", ".ogg", ".flac"))[::8]
    pieces = [soundfile.read(file, dtype="float32") for file in files]
    rate = pieces[0][1]
    samples = np.concatenate([piece for piece, _ in pieces])
    write(tmp_path / "recordings", "long.flac", samples, rate)
    index = AudioIndex(tmp_path / "index", AudioEmbedder.from_pretrained(str(CARDS / "uamix-whisper-tiny.en"), "cpu"))
    index.update(tmp_path / "recordings", progress_bar=False)
    assert index.files["long.flac"].seconds == pytest.approx(len(samples) / rate) and len(samples) / rate > 240
    cut, found = [], []
    for start in np.random.default_rng(0).uniform(0, len(samples) / rate - 2, 60):
        clip = samples[int(start * rate) : int((start + 2) * rate)]
        if np.abs(clip).max() > 1e-3:  # digital silence is everywhere
            cut.append(start)
            found.append(index.search({"array": clip, "sampling_rate": rate}, k=1)[0].start)
    distances = np.abs(np.array(found)[:, None] - cut)
    own = np.eye(len(cut), dtype=bool)
    assert len(cut) > 40 and (distances[~own] < 2).mean() < 0.1  # chance: places of the other clips
    assert (distances[own] < 2).mean() > 0.6 and (distances[own] <= 0.5).mean() > 0.45


def test_a_grown_index_equals_one_made_anew_and_embeds_the_new_alone(embedder, folder, tmp_path, monkeypatch) -> None:
    index = AudioIndex(tmp_path / "index", embedder, WINDOW)
    first = index.update(folder, progress_bar=False)
    assert first.added == ["0.wav", "1.wav", "2.wav", "3.wav", "night/4.flac"] and first.kept == 0
    write(folder, "a-new.wav", sound(20, 2.0))
    write(folder, "2.wav", sound(21, 1.7))
    (folder / "3.wav").unlink()
    embedded: list[int] = []
    compute = embedder.embed
    monkeypatch.setattr(embedder, "embed", lambda waves: (embedded.append(len(waves)), compute(waves))[1])
    index = AudioIndex(tmp_path / "index", embedder)  # read from disk
    probe, embedded[:] = sum(embedded), []
    assert probe == 1
    changes = index.update(folder, progress_bar=False)
    assert (changes.added, changes.changed, changes.removed) == (["a-new.wav"], ["2.wav"], ["3.wav"])
    assert changes.kept == 3 and not changes.unreadable
    assert sum(embedded) == 3 + 3  # windows of 2.0 and of 1.7 s
    embedded.clear()
    assert index.update(folder, progress_bar=False).kept == 5 and not embedded
    anew = AudioIndex(tmp_path / "anew", embedder, WINDOW)
    anew.update(folder, progress_bar=False)
    again = AudioIndex(tmp_path / "index", embedder)
    clip = sound(21, 1.0)
    assert summary(again, clip) == summary(index, clip) == summary(anew, clip)
    assert summary(again, clip)[0][:2] == ("2.wav", 0.0)
    assert sorted(path.name for path in (tmp_path / "index").iterdir())[0] == "manifest.json"
    assert len(list((tmp_path / "index").iterdir())) == 2


def test_unreadable_recordings_are_named_left_out_and_tried_again(embedder, folder, tmp_path) -> None:
    whole = (folder / "0.wav").read_bytes()
    (folder / "0.wav").write_bytes(b"RIFF no audio")
    flac = bytearray((folder / "night/4.flac").read_bytes())
    flac[len(flac) // 2 : len(flac) // 2 + 2000] = b"\0" * 2000  # after windows of it have been embedded
    (folder / "night/4.flac").write_bytes(flac)
    index = AudioIndex(tmp_path / "index", embedder, WINDOW)
    changes = index.update(folder, progress_bar=False)
    assert set(changes.unreadable) == {"0.wav", "night/4.flac"}
    assert "0.wav" in changes.unreadable["0.wav"]
    assert changes.added == ["1.wav", "2.wav", "3.wav"] == list(index.files)
    assert index.vectors.ntotal == sum(entry.windows for entry in index.files.values())
    (folder / "0.wav").write_bytes(whole)
    changes = index.update(folder, progress_bar=False)
    assert changes.added == ["0.wav"] and set(changes.unreadable) == {"night/4.flac"}
    assert summary(index, sound(0, 1.0))[0][:2] == ("0.wav", 0.0)


def test_an_interrupted_update_goes_on_where_it_was_written_last(embedder, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("uamix_hf.search.index.WRITTEN_EVERY", 5)
    index = AudioIndex(tmp_path / "index", embedder, WINDOW)
    from uamix_hf.search import reading

    cut = reading.half_overlapping

    def stopped(path, *rest):
        if str(path).endswith("3.wav"):
            raise KeyboardInterrupt
        return cut(path, *rest)

    monkeypatch.setattr(reading, "half_overlapping", stopped)
    with pytest.raises(KeyboardInterrupt):
        index.update(folder, progress_bar=False)
    monkeypatch.setattr(reading, "half_overlapping", cut)
    again = AudioIndex(tmp_path / "index", embedder)
    assert list(again.files) == ["0.wav"]
    changes = again.update(folder, progress_bar=False)
    assert changes.kept == 1 and len(changes.added) == 4
    anew = AudioIndex(tmp_path / "anew", embedder, WINDOW)
    anew.update(folder, progress_bar=False)
    assert summary(again, sound(3, 1.0)) == summary(anew, sound(3, 1.0))


def test_recordings_that_share_windows_are_those_of_brute_force(embedder, folder, tmp_path) -> None:
    shared = sound(0, 6.3)
    write(folder, "copy.flac", shared)
    write(folder, "part.wav", np.concatenate([sound(30, 2.0), shared[16000:40000], sound(31, 1.0)]))
    index = AudioIndex(tmp_path / "index", embedder, WINDOW)
    index.update(folder, progress_bar=False)
    windows = brute_force(embedder, folder)
    names, matrix = list(windows), np.array(list(windows.values()))
    cosines = matrix @ matrix.T
    for threshold in (0.9, 0.6):
        found = {(pair.file, pair.other): pair for pair in index.duplicates(threshold, progress_bar=False)}
        expected: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for row, other in np.argwhere(cosines > threshold):
            file, second = names[row][0], names[other][0]
            order = [(index.files[name].windows, list(index.files).index(name)) for name in (file, second)]
            if order[0] < order[1]:
                expected.setdefault((file, second), []).append((row, other))
        assert found.keys() == expected.keys() and found
        for key, matches in expected.items():
            best = max(matches, key=lambda match: cosines[match])
            assert found[key].similarity == pytest.approx(cosines[best], abs=1e-4)
            assert found[key].share == pytest.approx(len({row for row, _ in matches}) / index.files[key[0]].windows)
            start, other_start = found[key].start, found[key].other_start
            rows = names.index((key[0], start)), names.index((key[1], other_start))
            assert cosines[rows] == pytest.approx(cosines[best], abs=1e-4)
    first = index.duplicates(0.9, progress_bar=False)[0]
    assert {first.file, first.other} == {"0.wav", "copy.flac"} and first.share == 1.0
    assert first.similarity == pytest.approx(1.0, abs=1e-3)


def test_another_encoder_window_or_folder_is_refused(embedder, folder, tmp_path) -> None:
    index = AudioIndex(tmp_path / "index", embedder, WINDOW)
    with pytest.raises(AudioIndexError, match="holds no recordings"):
        index.search(sound(0, 1.0))
    with pytest.raises(AudioIndexError, match="holds no recordings"):
        index.duplicates()
    index.update(folder, progress_bar=False)
    path = str(CARDS / "uamix-mae-tiny")
    with pytest.raises(AudioIndexError, match=r"made by another encoder.*uamix-mae-tiny"):
        AudioIndex(tmp_path / "index", AudioEmbedder.from_pretrained(str(CARDS / "audio-mae-tiny"), "cpu"))
    with pytest.raises(AudioIndexError, match="another encoder, layer, pooling or whitening"):
        AudioIndex(tmp_path / "index", AudioEmbedder.from_pretrained(path, "cpu", embedding_layer=11))
    whitened = AudioEmbedder.from_pretrained(path, "cpu")
    whitened.fit_whitening([sound(seed, 0.3) for seed in range(140)], progress_bar=False)
    with pytest.raises(AudioIndexError, match="whitening"):
        AudioIndex(tmp_path / "index", whitened)
    with pytest.raises(AudioIndexError, match="windows of 1 s, not 2 s"):
        AudioIndex(tmp_path / "index", embedder, 2.0)
    write(tmp_path / "others", "x.wav", sound(3, 1.0))
    with pytest.raises(AudioIndexError, match="none of which is in"):
        index.update(tmp_path / "others", progress_bar=False)
    assert len(AudioIndex(tmp_path / "index", embedder).files) == 5


@pytest.mark.parametrize("seconds", [0.01, 30.0, float("nan")])
def test_windows_that_the_encoder_does_not_take_are_refused(embedder, tmp_path, seconds) -> None:
    with pytest.raises(ValueError, match=r"window_seconds=.*takes 0.05 to 10.255 s"):
        AudioIndex(tmp_path / "index", embedder, seconds)


def test_folders_without_audio_and_with_unreadable_audio_alone_are_refused(embedder, tmp_path) -> None:
    index = AudioIndex(tmp_path / "index", embedder, WINDOW)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no recordings"):
        index.update(tmp_path / "empty")
    (tmp_path / "empty" / "broken.wav").write_bytes(b"nothing")
    with pytest.raises(AudioInputError, match=r"None of the 1 recordings.*broken.wav"):
        index.update(tmp_path / "empty", progress_bar=False)
    assert not (tmp_path / "index").exists()


def test_queries_that_cannot_be_answered_are_refused(long_index, tmp_path) -> None:
    index, samples = long_index
    with pytest.raises(AudioInputError, match=r"short.wav: 20 ms; a query has at least 25 ms"):
        write(tmp_path, "short.wav", samples[:320])
        index.search(tmp_path / "short.wav")
    assert index.search(samples[:400], k=1)
    with pytest.raises(AudioInputError, match="nowhere.wav"):
        index.search("nowhere.wav")
    with pytest.raises(ValueError, match="k=0"):
        index.search(samples[:RATE], k=0)
    for threshold in (0.0, 1.0, -2, float("nan")):
        with pytest.raises(ValueError, match="threshold="):
            index.duplicates(threshold)


def test_a_damaged_index_and_a_folder_of_something_else_are_refused(embedder, folder, tmp_path) -> None:
    with pytest.raises(AudioIndexError, match="holds no index"):
        AudioIndex(folder, embedder)
    index = AudioIndex(tmp_path / "index", embedder, WINDOW)
    index.update(folder, progress_bar=False)
    manifest = json.loads((tmp_path / "index/manifest.json").read_text(encoding="utf-8"))

    def damaged(name: str, text: bytes) -> Path:
        copy = tmp_path / "damaged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tmp_path / "index", copy)
        (copy / name).write_bytes(text)
        return copy

    fewer = manifest | {"files": {"0.wav": manifest["files"]["0.wav"]}}
    whole = (tmp_path / "index" / manifest["vectors"]).read_bytes()
    for name, text, says in (
        ("manifest.json", b"{", "damaged"),
        ("manifest.json", b"\xff", "damaged"),
        ("manifest.json", json.dumps(manifest | {"layout": 9}).encode(), "layout 9"),
        ("manifest.json", json.dumps(fewer).encode(), "lists 12 of 128"),
        (manifest["vectors"], whole[: len(whole) // 2], "damaged"),
        (manifest["vectors"], b"", "damaged"),
    ):
        with pytest.raises(AudioIndexError, match=says):
            AudioIndex(damaged(name, text), embedder)


def test_what_an_interrupted_first_write_leaves_is_written_over(embedder, folder, tmp_path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index/vectors-1.faiss").write_bytes(b"half")
    index = AudioIndex(tmp_path / "index", embedder, WINDOW)
    index.update(folder, progress_bar=False)
    assert len(AudioIndex(tmp_path / "index", embedder).files) == 5
