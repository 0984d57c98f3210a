"""The embedder against the model run by hand; a vector depends on its recording alone."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile
import torch
from datasets import Audio, Dataset

from uamix_hf import (
    AudioDecodeError,
    AudioEmbedder,
    AudioInputError,
    AudioMAEConfig,
    AudioMAEFeatureExtractor,
    AudioMAEForAudioClassification,
    AudioMAEForPreTraining,
    AudioMAEModel,
    UaMixForContrastiveTuning,
)
from uamix_hf.embedding import embed_features
from uamix_hf.embedding.windows import batches_of_windows

RATE = 16_000
WINDOW = 127 * 160 + 400  # samples of 128 whole frames


@pytest.fixture(scope="module")
def embedder() -> AudioEmbedder:
    torch.manual_seed(0)
    config = AudioMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_length=128
    )
    model = AudioMAEModel(config)
    # Fresh weights hardly tell one clip from another; these do.
    torch.nn.init.normal_(model.embeddings.patch_embeddings.projection.weight, std=0.2)
    return AudioEmbedder(model, AudioMAEFeatureExtractor(max_length=128))


def clip(samples: int, seed: int = 0) -> np.ndarray:
    """Noise whose colour and level change along the way."""
    noise = np.random.default_rng(seed).standard_normal(samples + 8)
    smooth = np.convolve(noise, np.ones(9) / 9, "valid")
    return (0.3 * np.linspace(0.05, 1, samples) * (smooth + np.linspace(0, 1, samples) * noise[8:])).astype(np.float32)


def by_hand(embedder: AudioEmbedder, wave: np.ndarray) -> tuple[np.ndarray, int]:
    """Vector and frames of one window, alone and without padding of frames that count."""
    inputs = embedder.feature_extractor(wave, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        return embedder.model(**inputs).pooler_output[0].double().numpy(), int(inputs["attention_mask"].sum())


@pytest.mark.parametrize(("tail", "tail_frames"), [(0, ()), (399, ()), (400, (1,)), (9000, (54,))])
def test_a_long_recording_is_the_mean_of_its_windows_by_frames(embedder: AudioEmbedder, tail, tail_frames) -> None:
    wave = clip(3 * WINDOW + tail)
    starts = range(0, (3 + len(tail_frames)) * WINDOW, WINDOW)  # a tail of less than a frame says nothing
    vectors, frames = zip(*(by_hand(embedder, wave[start : start + WINDOW]) for start in starts), strict=True)
    assert frames == (128, 128, 128, *tail_frames)
    expected = np.average(vectors, axis=0, weights=frames)
    vector = embedder.encode(wave)
    assert vector.shape == (32,) and vector.dtype == np.float32
    np.testing.assert_allclose(vector, expected, atol=1e-5)
    if tail_frames:  # the weights are seen
        assert np.abs(expected - np.mean(vectors, axis=0)).max() > 1e-4


ENDS = {"pad": {}, "drop": {"incomplete_patches": "drop"}, "resample": {"resample_below": 96}}


@pytest.mark.parametrize(("rule", "least"), [("pad", 1), ("drop", 16), ("resample", 8)])
def test_a_last_window_of_which_no_patch_is_left_does_not_count(embedder: AudioEmbedder, rule: str, least: int) -> None:
    """In recordings and in cached log-mels; without it, the recording's vector is that of its first window."""
    fitting = AudioEmbedder(embedder.model, AudioMAEFeatureExtractor(max_length=128, **ENDS[rule]))
    enough = WINDOW + 240 + 160 * least  # samples
    wave, mel = clip(enough), torch.randn(128 + least, 128)
    first, counted = fitting.encode([wave[:WINDOW], wave])
    assert np.abs(counted - first).max() > 1e-4
    np.testing.assert_allclose(fitting.encode(wave[: enough - 1]), first, atol=1e-6)
    lengths = [128, 127 + least, 128 + least]
    columns = {"features": [mel[:length].numpy() for length in lengths], "sample_id": [0, 1, 2], "length": lengths}
    data = Dataset.from_dict(columns).with_format("torch")
    vectors = embed_features(fitting.model, fitting.feature_extractor, data)
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-6)
    assert np.abs(vectors[2] - vectors[0]).max() > 1e-4


@pytest.mark.parametrize("rule", ENDS)
def test_a_vector_of_cached_log_mels_is_that_of_the_recording(embedder: AudioEmbedder, rule: str) -> None:
    """However a clip ends, alone and in a batch; and the rules differ."""
    fitting = AudioEmbedder(embedder.model, AudioMAEFeatureExtractor(max_length=128, **ENDS[rule]))
    waves = [clip(400 + 160 * (frames - 1), frames) for frames in (9, 24, 90, 105, 128)]
    mels = [mel.numpy() for mel in fitting.feature_extractor.log_mels(waves)]
    columns = {"features": mels, "sample_id": list(range(5)), "length": [len(mel) for mel in mels]}
    data = Dataset.from_dict(columns).with_format("torch")
    vectors = embed_features(fitting.model, fitting.feature_extractor, data)
    alone = np.stack([fitting.encode(wave) for wave in waves])
    np.testing.assert_allclose(fitting.encode(waves), alone, atol=1e-5)
    np.testing.assert_allclose(vectors, alone, atol=1e-5)
    differ = np.abs(vectors - embedder.encode(waves)).max(axis=1) > 1e-4
    assert (
        differ.tolist()
        == {
            "pad": [False] * 5,
            "drop": [False, True, True, True, False],
            "resample": [True, True, True, False, False],
        }[rule]
    )


def test_a_vector_depends_neither_on_its_batch_nor_on_the_order(embedder: AudioEmbedder) -> None:
    seconds = [25, 0.03, 7, 1.28, 0.5, 0.001, 1.9, 3]
    clips = [clip(round(RATE * length), seed) for seed, length in enumerate(seconds)]
    alone = np.stack([embedder.encode(wave) for wave in clips])
    assert np.isfinite(alone).all()
    distance = np.linalg.norm(alone[:, None] - alone[None], axis=-1)
    assert distance[~np.eye(len(clips), dtype=bool)].min() > 1e-2  # or else all would agree with all
    for batch_size in (1, 3, 32):
        vectors = embedder.encode(clips, batch_size=batch_size, progress_bar=False)
        np.testing.assert_allclose(vectors, alone, atol=1e-5)
        backwards = embedder.encode(clips[::-1], batch_size=batch_size, progress_bar=False)
        np.testing.assert_allclose(backwards[::-1], alone, atol=1e-5)


def test_whole_windows_wait_for_no_more_than_their_batch(
    embedder: AudioEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [WINDOW, 400, WINDOW, WINDOW, 300, WINDOW, 200, WINDOW]
    read: list[int] = []

    def windows(inputs: object) -> Iterator[tuple[int, np.ndarray]]:
        for index, length in enumerate(lengths):
            read.append(index)
            yield index, clip(length)

    monkeypatch.setattr(embedder, "windows", windows)
    seen = [([index for index, _ in batch], len(read)) for batch in embedder.batches([None] * 8, 2)]
    assert [batch for batch, _ in seen] == [[0, 2], [3, 5], [6, 4], [1, 7]]
    for (_, count), needed in zip(seen, (3, 6, 8, 8), strict=True):
        assert needed <= count <= needed + 2  # read ahead


def test_sorted_batches_go_out_while_the_next_ones_come_in(embedder: AudioEmbedder) -> None:
    """Of short windows no more wait than are sorted together, and reading is spread over the batches."""
    lengths = np.random.default_rng(0).integers(400, 4000, 150).tolist()
    lengths[90] = lengths[120] = WINDOW
    read: list[int] = []

    def windows() -> Iterator[tuple[int, np.ndarray]]:
        for index, length in enumerate(lengths):
            read.append(length)
            yield index, np.zeros(length, np.float32)

    short = [index for index, length in enumerate(lengths) if length != WINDOW]
    groups = [sorted(short[start : start + 32], key=lambda index: lengths[index]) for start in range(0, 148, 32)]
    expected = [group[start : start + 2] for group in groups for start in range(0, len(group), 2)]
    taken, waiting = [], []
    for batch in batches_of_windows(windows(), 2, WINDOW):
        taken.append([index for index, _ in batch])
        waiting.append(len(read) - sum(map(len, taken)))
    whole = taken.index([90, 120])
    assert taken[:whole] + taken[whole + 1 :] == expected
    assert waiting[0] == 30 and max(waiting) <= 32  # between two batches as many are read as a batch has


def test_padding_is_masked_even_if_the_extractor_is_saved_without_a_mask(embedder: AudioEmbedder) -> None:
    silent = AudioEmbedder(embedder.model, AudioMAEFeatureExtractor(max_length=128, return_attention_mask=False))
    clips = [clip(WINDOW), clip(5000, 1)]
    np.testing.assert_allclose(silent.encode(clips), embedder.encode(clips), atol=1e-6)


def test_one_recording_in_any_form(embedder: AudioEmbedder, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    wave = clip(30_000)
    soundfile.write(path, wave, RATE, subtype="FLOAT")
    data = path.read_bytes()
    expected = embedder.encode([wave])
    assert expected.shape == (1, 32)
    forms = [path, str(path), data, io.BytesIO(data), {"bytes": data, "path": None}, wave, torch.from_numpy(wave)]
    for form in [*forms, {"array": wave, "sampling_rate": RATE}]:
        np.testing.assert_array_equal(embedder.encode(form), expected[0])
    several = embedder.encode([path, wave, {"bytes": data, "path": None}], progress_bar=False)
    np.testing.assert_allclose(several, np.repeat(expected, 3, axis=0), atol=1e-5)
    assert embedder.encode([]).shape == (0, 32)


def objects(waves: list[np.ndarray]) -> np.ndarray:
    array = np.empty(len(waves), object)
    array[:] = waves
    return array


def members(folder: Path, mode: str) -> Iterator[object]:
    """Files of an archive, one open at a time: of a stream, no earlier one can be read again."""
    with tarfile.open(folder / "clips.tar", "w:gz") as archive:
        for number in range(3):
            archive.add(folder / f"{number}.wav")
    with tarfile.open(folder / "clips.tar", mode) as archive:
        for member in archive:
            yield archive.extractfile(member)


def zipped(folder: Path) -> Iterator[object]:
    with zipfile.ZipFile(folder / "clips.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.write(folder / f"{number}.wav")
        for name in archive.namelist():
            with archive.open(name) as file:
                yield file


def column(paths: list[str]) -> Dataset:
    return Dataset.from_dict({"audio": paths, "label": [0, 1, 2]}).cast_column("audio", Audio(decode=False))


SEVERAL: dict[str, Callable[[Path, list[str], list[np.ndarray]], Iterable[object]]] = {
    "list": lambda folder, paths, waves: paths,
    "tuple": lambda folder, paths, waves: (Path(paths[0]), waves[1], paths[2]),
    "pandas, paths": lambda folder, paths, waves: pd.Series(paths, index=[7, 5, 6]),
    "pandas, strings": lambda folder, paths, waves: pd.Series(paths, dtype="string"),
    "pandas, waves": lambda folder, paths, waves: pd.Series(waves),
    "pandas, values": lambda folder, paths, waves: pd.DataFrame({"audio": [{"path": path} for path in paths]})["audio"],
    "array of strings": lambda folder, paths, waves: np.array(paths),
    "array of NumPy's strings": lambda folder, paths, waves: np.array(paths, np.dtypes.StringDType()),
    "array of paths": lambda folder, paths, waves: np.array([Path(path) for path in paths]),
    "array of arrays": lambda folder, paths, waves: objects(waves),
    "array of lists": lambda folder, paths, waves: objects([wave.tolist() for wave in waves]),
    "Arrow": lambda folder, paths, waves: pa.array(paths),
    "generator": lambda folder, paths, waves: (path for path in paths),
    "iterator": lambda folder, paths, waves: iter(waves),
    "map": lambda folder, paths, waves: map(Path, paths),
    "values of a dictionary": lambda folder, paths, waves: dict(enumerate(paths)).values(),
    "keys of a dictionary": lambda folder, paths, waves: dict.fromkeys(paths).keys(),
    "column": lambda folder, paths, waves: column(paths)["audio"],
    "column, sliced": lambda folder, paths, waves: column(paths)["audio"][:],
    "column of a stream": lambda folder, paths, waves: column(paths).to_iterable_dataset()["audio"],
    "files": lambda folder, paths, waves: (open(path, "rb") for path in paths),
    "members of a tar": lambda folder, paths, waves: members(folder, "r:*"),
    "members of a tar that streams": lambda folder, paths, waves: members(folder, "r|*"),
    "members of a zip": lambda folder, paths, waves: zipped(folder),
}  # fmt: skip


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_recordings_in_any_form(embedder: AudioEmbedder, tmp_path: Path, kind: str) -> None:
    waves = [clip(samples, seed) for seed, samples in enumerate((30_000, 9000, 12_345))]
    paths = [str(tmp_path / f"{number}.wav") for number in range(3)]
    for path, wave in zip(paths, waves, strict=True):
        soundfile.write(path, wave, RATE, subtype="FLOAT")
    expected = np.stack([embedder.encode(wave) for wave in waves])
    found = embedder.encode(SEVERAL[kind](tmp_path, paths, waves))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


EMPTY = {
    "list": [], "tuple": (), "array of strings": np.array([], str), "array of objects": np.array([], object),
    "no clips": np.zeros((0, 9000)), "no clips, tensor": torch.zeros(0, 9000), "pandas": pd.Series([], dtype=object),
    "iterator": iter([]), "column": Dataset.from_dict({"audio": []})["audio"],
}  # fmt: skip


@pytest.mark.parametrize("kind", EMPTY)
def test_no_recordings_have_no_vectors(embedder: AudioEmbedder, kind: str) -> None:
    assert embedder.encode(EMPTY[kind]).shape == (0, 32)


def test_a_generator_is_read_as_it_goes(embedder: AudioEmbedder) -> None:
    """A batch ahead; gradients of the caller's stay on."""
    seen: list[bool] = []

    def waves() -> Iterator[np.ndarray]:
        for seed in range(40):
            seen.append(torch.is_inference_mode_enabled())
            yield clip(WINDOW, seed)

    read: list[int] = []
    embed = embedder.embed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedder, "embed", lambda batch: (read.append(len(seen)), embed(batch))[1])
        embedder.encode(waves(), batch_size=4, progress_bar=False)
    assert all(first <= count <= first + 4 for first, count in zip(range(4, 41, 4), read, strict=True))
    assert not any(seen)


def test_one_recording_of_a_decoder_or_of_numbers(embedder: AudioEmbedder) -> None:
    wave = clip(9000)

    class Decoder:
        def get_all_samples(self) -> SimpleNamespace:
            return SimpleNamespace(data=torch.from_numpy(wave)[None], sample_rate=RATE)

    expected = embedder.encode(wave)
    for source in (Decoder(), wave.tolist(), tuple(wave.tolist()), pd.Series(wave)):
        np.testing.assert_array_equal(embedder.encode(source), expected)
    np.testing.assert_allclose(embedder.encode([Decoder(), wave]), [expected, expected], atol=1e-6)


def test_what_is_no_recording_is_refused_by_name(embedder: AudioEmbedder) -> None:
    wave = clip(9000)
    for source, error, says in [
        ({"a.wav", "b.wav"}, TypeError, "set has no order"),
        (frozenset(), TypeError, "set has no order"),
        ({"dog": "dog.wav", "cat": "cat.wav"}, AudioInputError, "a value with cat, dog"),
        (np.array([b"RIFF", b"data"]), TypeError, "as a list"),
        ((wave, 48_000), AudioInputError, "tuple of ndarray, int.*sampling_rate"),
        ([wave, None], TypeError, "NoneType"),
        (3, TypeError, "int"),
        (None, TypeError, "NoneType"),
        (pd.Series(["a.wav", None])[1:], TypeError, "float|NoneType"),
        (Dataset.from_dict({"audio": ["a.wav"], "label": [0]}), AudioInputError, "its audio column"),
        (np.zeros(0), AudioInputError, "no samples"),
    ]:
        with pytest.raises(error, match=says):
            embedder.encode(source)


def test_embeddings_that_are_not_finite_are_refused(embedder: AudioEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one recording among others: a layer that overflows on loud audio."""
    forward = embedder.adapter.encode

    def overflow(values: torch.Tensor, *rest) -> tuple[torch.Tensor, torch.Tensor | None]:
        vectors, seen = forward(values, *rest)
        return vectors.masked_fill(values.amax(dim=(1, 2))[:, None] > 0.5, torch.inf), seen

    monkeypatch.setattr(embedder.adapter, "encode", overflow)
    quiet, loud = (level * np.random.default_rng(0).standard_normal(WINDOW).astype(np.float32) for level in (1e-3, 0.5))
    assert np.isfinite(embedder.encode(quiet)).all()
    with pytest.raises(ValueError, match="of 1 of 3 recordings are not finite, the first of number 1: check"):
        embedder.encode([quiet, loud, quiet])


def test_a_model_that_is_no_encoder_says_where_its_encoder_is(embedder: AudioEmbedder, tmp_path: Path) -> None:
    extractor = embedder.feature_extractor
    whole = UaMixForContrastiveTuning.from_encoder(
        AudioMAEModel(embedder.model.config), projector_hidden_size=8, projection_size=8, predictor_hidden_size=8
    )
    with pytest.raises(TypeError, match=r"UaMixForContrastiveTuning is a uaMix model.*\.encoder"):
        AudioEmbedder(whole, extractor)
    assert AudioEmbedder(whole.encoder, extractor).encode(clip(900)).shape == (32,)
    whole.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=rf"{tmp_path} is a uaMix model.*\.encoder"):
        AudioEmbedder.from_pretrained(str(tmp_path), device="cpu")
    for kind in (AudioMAEForPreTraining, AudioMAEForAudioClassification):
        model = kind(embedder.model.config)
        with pytest.raises(TypeError, match=rf"{kind.__name__}.*model\.base_model"):
            AudioEmbedder(model, extractor)
        assert AudioEmbedder(model.base_model, extractor).encode(clip(900)).shape == (32,)
    with pytest.raises(TypeError, match="Linear.*input_values"):
        AudioEmbedder(torch.nn.Linear(2, 2), extractor)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"max_length": 256}, "max_length=256.*128 frames: set feature_extractor.max_length"),
        ({"num_mel_bins": 64}, "num_mel_bins=64 and the model 128"),
        ({"patch_size": 8}, "patch_size=8 and the model 16"),
    ],
)
def test_a_feature_extractor_of_another_model_is_refused(embedder: AudioEmbedder, sizes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AudioEmbedder(embedder.model, AudioMAEFeatureExtractor(**{"max_length": 128, **sizes}))
    shorter = AudioEmbedder(embedder.model, AudioMAEFeatureExtractor(max_length=64))
    assert np.isfinite(shorter.encode(clip(30_000))).all()


def test_a_model_that_waits_on_disk_embeds_alike(embedder: AudioEmbedder, tmp_path: Path) -> None:
    embedder.model.save_pretrained(tmp_path)
    embedder.feature_extractor.save_pretrained(tmp_path)
    clips = [clip(30_000), clip(5000, 1)]
    expected = embedder.encode(clips)
    offload = tmp_path / "offload"
    layers = {name: "disk" if name == "layers" else "cpu" for name, _ in embedder.model.named_children()}
    for place in ("cpu", "auto", {"": "disk"}, layers):
        loaded = AudioEmbedder.from_pretrained(str(tmp_path), device_map=place, offload_folder=str(offload))
        assert loaded.device == torch.device("cpu")
        np.testing.assert_allclose(loaded.encode(clips, progress_bar=False), expected, atol=1e-6)
    assert any(weight.device.type == "meta" for weight in loaded.model.parameters())  # or else nothing waited there
    with pytest.raises(ValueError, match="device='cpu' and device_map='auto'"):
        AudioEmbedder.from_pretrained(str(tmp_path), device="cpu", device_map="auto")
    assert AudioEmbedder.from_pretrained(str(tmp_path), device="cpu", device_map=None).device.type == "cpu"


def test_two_axes_are_clips_never_channels(embedder: AudioEmbedder) -> None:
    clips = np.stack([clip(5000), clip(5000, 1)])
    separate = np.stack([embedder.encode(wave) for wave in clips])
    np.testing.assert_allclose(embedder.encode(clips), separate, atol=1e-5)
    with pytest.raises(AudioInputError, match="average channels"):
        embedder.encode(clips.T)


def test_other_rates_are_resampled(embedder: AudioEmbedder) -> None:
    time = np.arange(2 * 48_000) / 48_000
    sound = np.sin(2 * np.pi * 500 * time * (1 + time)) * 0.3
    low = {"array": sound[::3], "sampling_rate": RATE}  # nothing above 8 kHz, so that every third sample is the sound
    vectors = embedder.encode([{"array": sound, "sampling_rate": 48_000}, low])
    assert np.linalg.norm(vectors[0] - vectors[1]) < 0.05 * np.linalg.norm(vectors[0])


def test_errors_name_the_recording(embedder: AudioEmbedder, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.wav", tmp_path / "bad one.wav"
    soundfile.write(good, clip(3000), RATE)
    bad.write_text("no sound")
    for source in (bad, {"bytes": bad.read_bytes(), "path": "bad one.wav"}, tmp_path / "bad one.flac"):
        with pytest.raises(AudioDecodeError, match="bad one"):
            embedder.encode([good, source, good])
    with pytest.raises(AudioInputError, match="bad one"):
        embedder.encode({"array": np.full(900, np.nan), "sampling_rate": RATE, "path": "bad one.wav"})


def test_a_saved_folder_embeds_alike(embedder: AudioEmbedder, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "encoder"
    embedder.model.save_pretrained(folder)
    embedder.feature_extractor.save_pretrained(folder)
    expected = embedder.encode(clip(30_000))
    loaded = AudioEmbedder.from_pretrained(str(folder), device="cpu")
    assert not loaded.model.training
    np.testing.assert_array_equal(loaded.encode(clip(30_000)), expected)
    # Where to find the folder is told once, for the model and for its feature extractor.
    loaded = AudioEmbedder.from_pretrained(str(folder.parent), device="cpu", subfolder="encoder")
    np.testing.assert_array_equal(loaded.encode(clip(30_000)), expected)
    half = AudioEmbedder.from_pretrained(str(folder), device="cpu", dtype=torch.bfloat16).encode(clip(30_000))
    assert half.dtype == np.float32
    assert np.linalg.norm(half - expected) < 0.05 * np.linalg.norm(expected)
