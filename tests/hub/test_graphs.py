"""Graphs from waveforms to embeddings equal AudioEmbedder in ONNX Runtime and torch.export, on real clips."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from all_encoders import ALL_WAVEFORMS, CONVERTED, short_encoder, slow_but, write_encoder
from shared_data import shared_path
from toy_sounds import CONFIG

from uamix_hf import AudioEmbedder, AudioMAEFeatureExtractor, AudioMAEModel, front_end, load_audio
from uamix_hf.__main__ import main
from uamix_hf.hub import NotExportableError, export_onnx, export_program
from uamix_hf.hub.log_mel_graph import LogMelGraph
from uamix_hf.hub.waveform_encoder import WaveformEncoder
from uamix_hf.models.front_ends import FRONT_ENDS

CARDS = Path(__file__).parents[2] / "model_cards"
TOLERANCE = 1e-4
SETS = ("esc10", "fsdd", "speech_commands_sub")
# Systems whose graphs are not exported: clips are repeated, or the layers are a loop, or have a bias of attention.
REFUSED = ("beats", "openbeats", "ssamba")
Session = onnxruntime.InferenceSession


def real_clips(samples: int, each: int = 2) -> list[np.ndarray]:
    """The beginnings of clips of sounds, digits and words."""
    files = []
    for name in SETS:
        found = sorted(path for path in shared_path(f"data/{name}/audio").rglob("*") if path.is_file())
        files += found[:: len(found) // each][:each]
    return [load_audio(file)[:samples] for file in files]


def padded(clips: list[np.ndarray], samples: int | None = None) -> dict[str, np.ndarray]:
    """Inputs of a graph; noise follows the end of each clip, since nothing there may count."""
    lengths = np.array([len(clip) for clip in clips])
    waveforms = np.random.default_rng(0).uniform(-1, 1, (len(clips), samples or lengths.max())).astype(np.float32)
    for row, clip in zip(waveforms, clips, strict=True):
        row[: len(clip)] = clip
    return {"waveforms": waveforms, "lengths": lengths}


def run(session: Session, clips: list[np.ndarray], samples: int | None = None) -> np.ndarray:
    inputs = padded(clips, samples)
    (found,) = session.run(["embeddings"], {given.name: inputs[given.name] for given in session.get_inputs()})
    return found


def embedded(embedder: AudioEmbedder, clips: list[np.ndarray]) -> np.ndarray:
    return embedder.encode(clips, progress_bar=False)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Audio-MAE with a whitening, whose short clips are resampled."""
    folder = tmp_path_factory.mktemp("toy")
    torch.manual_seed(0)
    model = AudioMAEModel(type(CONFIG)(**CONFIG.to_diff_dict() | {"whitening_size": 20, "pooling": "mean_time"}))
    model.whitening.matrix.normal_()
    model.save_pretrained(folder)
    AudioMAEFeatureExtractor(num_mel_bins=32, max_length=64, mean=-7.2, std=3.0, resample_below=24).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def toy_file(toy: Path) -> Path:
    assert main(["export", "--onnx", str(toy), str(toy / "toy.onnx")]) == 0
    return toy / "toy.onnx"


def test_onnx_runtime_embeds_real_clips_as_audio_embedder(toy: Path, toy_file: Path) -> None:
    embedder, session = AudioEmbedder.from_pretrained(str(toy), device="cpu"), Session(toy_file)
    window = embedder.window_samples
    clips = real_clips(window)
    one = max(clips, key=len)
    # Less than a frame, a frame, less than a patch, a patch and a frame, what is resampled up and down; all windows.
    mixed = [one[:n] for n in (1, 250, 400, 2000, 2960, 3500, window)]
    for batch in (mixed, clips, [one], [one[:900]], [one[:1]]):
        np.testing.assert_allclose(run(session, batch), embedded(embedder, batch), atol=TOLERANCE)
    # More padding than the longest clip needs changes nothing.
    np.testing.assert_allclose(run(session, mixed[:3], window), embedded(embedder, mixed[:3]), atol=TOLERANCE)
    assert np.abs(embedded(embedder, clips)).max() > 1  # so that the tolerance is strict


def test_the_file_is_valid_and_says_what_it_takes(toy: Path, toy_file: Path) -> None:
    onnx.checker.check_model(toy_file, full_check=True)
    session = Session(toy_file)
    axes = {value.name: value.shape for value in session.get_inputs() + session.get_outputs()}
    assert axes == {"waveforms": ["batch", "samples"], "lengths": ["batch"], "embeddings": ["batch", 20]}
    told = session.get_modelmeta().custom_metadata_map
    window = 63 * 160 + 400
    assert {name: told[name] for name in ("sampling_rate", "max_samples", "embedding_size", "whitening_size")} == {
        "sampling_rate": "16000", "max_samples": str(window), "embedding_size": "20", "whitening_size": "20",
    }  # fmt: skip
    assert float(told["max_seconds"]) == window / 16_000 and told["equal_lengths"] == "false"
    content = toy_file.read_bytes()
    assert b"log_mel_graph.py" not in content and str(Path(__file__).parents[2]).encode() not in content


def test_int8_is_in_the_linear_layers_of_the_layers_alone(toy: Path, toy_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "int8.onnx"
    assert main(["export", "--onnx", "--int8", str(toy), str(target)]) == 0
    onnx.checker.check_model(target)
    kinds = [Counter(node.op_type for node in onnx.load(file).graph.node) for file in (toy_file, target)]
    linear = 6 * CONFIG.num_hidden_layers
    assert kinds[1]["MatMulInteger"] == linear
    assert kinds[1]["MatMul"] + kinds[1]["Gemm"] == kinds[0]["MatMul"] + kinds[0]["Gemm"] - linear
    assert target.stat().st_size < toy_file.stat().st_size
    clips = real_clips(5000)
    exact, rounded = (run(Session(file), clips) for file in (toy_file, target))
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()
    assert Session(target).get_modelmeta().custom_metadata_map["max_samples"] == "10480"


def test_torch_export_embeds_the_same(toy: Path, tmp_path: Path) -> None:
    target = tmp_path / "toy.pt2"
    assert main(["export", "--pt2", str(toy), str(target)]) == 0
    told = {"metadata.json": ""}
    module: Any = torch.export.load(target, extra_files=told).module()
    assert json.loads(told["metadata.json"])["sampling_rate"] == "16000"
    embedder = AudioEmbedder.from_pretrained(str(toy), device="cpu")
    window = embedder.window_samples
    for batch in ([clip[:n] for clip, n in zip(real_clips(window), (1, 300, 2000, 3000, 9000), strict=False)],
                  real_clips(window)[:1]):  # fmt: skip
        inputs = [torch.from_numpy(value) for value in padded(batch).values()]
        np.testing.assert_allclose(module(*inputs).detach().numpy(), embedded(embedder, batch), atol=TOLERANCE)
    with pytest.raises((AssertionError, RuntimeError)):  # longer than the window
        module(torch.zeros(1, window + 1), torch.tensor([window + 1]))


@pytest.mark.parametrize("system", sorted(set(FRONT_ENDS) - {"openbeats"}))
@pytest.mark.parametrize("settings", [{}, {"resample_below": 40}, {"incomplete_patches": "drop", "power": 1.0}])
def test_log_mels_are_those_of_the_feature_extractor(system: str, settings: dict[str, Any]) -> None:
    given = {"mean": -4.0, "std": 3.0} if system == "mae_ast" else {}
    extractor = front_end(system, **given | settings)
    rng = np.random.default_rng(1)
    sizes = (1, 300, 1500, 9_000, 20_011)
    clips = [(0.1 * rng.standard_normal(n) + 0.02).astype(np.float32) for n in sizes]
    inputs = padded(clips)
    values, lengths = LogMelGraph(extractor)(*(torch.from_numpy(value) for value in inputs.values()))
    expected = extractor(clips, sampling_rate=extractor.sampling_rate, return_attention_mask=True, return_tensors="pt")
    frames = expected["attention_mask"].sum(1)
    assert lengths.tolist() == frames.tolist()
    scale = extractor.std_factor * extractor.std
    for found, wanted, count in zip(values, expected["input_values"], frames, strict=True):
        np.testing.assert_allclose(scale * found[:count], scale * wanted[:count], rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("kind", slow_but(("wav2vec2", "wav2vec2-layer-norm"), ALL_WAVEFORMS))
@torch.no_grad()
def test_waveforms_pass_to_the_encoder(kind: str) -> None:
    embedder = AudioEmbedder(*short_encoder(kind))
    module = WaveformEncoder(embedder)
    for samples in (module.min_samples, 3210, 8000):
        waves = [clip[:samples] for clip in real_clips(samples) if len(clip) >= samples]
        found = module(torch.from_numpy(np.stack(waves))).numpy()
        np.testing.assert_allclose(found, embedded(embedder, waves), atol=TOLERANCE)


def test_what_cannot_be_a_graph_is_refused_by_name(tmp_path: Path, toy: Path, capsys: pytest.CaptureFixture) -> None:
    for kind in ("clap", "wav2vec2-bert", "beats", "ssamba"):
        embedder = AudioEmbedder(*short_encoder(kind))
        with pytest.raises(NotExportableError, match=f"{embedder.model.config.model_type}.*AudioMAEFeatureExtractor"):
            WaveformEncoder(embedder)
    for settings in ({"repeat_below": 3200}, {"fbank_backend": "torchaudio"}):
        name, value = next(iter(settings.items()))
        with pytest.raises(NotExportableError, match=f"AudioMAEFeatureExtractor has {name}={value!r}"):
            LogMelGraph(AudioMAEFeatureExtractor(**settings))
    with pytest.raises(NotExportableError, match="WhisperFeatureExtractor is not in the graph"):
        from transformers import WhisperFeatureExtractor

        LogMelGraph(WhisperFeatureExtractor())
    for flags, message in (
        (["--onnx", str(toy), str(tmp_path / "toy")], "no .onnx file"),
        (["--pt2", str(toy), str(tmp_path / "toy.onnx")], "no .pt2 file"),
        (["--int8", str(toy), str(tmp_path / "toy.onnx")], "give both"),
        (["--onnx", str(tmp_path / "nothing"), str(tmp_path / "toy.onnx")], "nothing"),
    ):
        assert main(["export", *flags]) == 1
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_what_is_missing_is_named(package: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} is not installed.*pip install 'uamix_hf\[onnx\]'"):
        export_onnx(toy, tmp_path / "toy.onnx", int8=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uamix-mae-tiny", "audio-mae-mini", "uamix-whisper-tiny.en"])
def test_shipped_encoders_on_real_clips(name: str, tmp_path: Path) -> None:
    embedder = AudioEmbedder.from_pretrained(str(CARDS / name), device="cpu")
    window = embedder.window_samples
    files = [tmp_path / "float32.onnx", tmp_path / "int8.onnx"]
    for file, int8 in zip(files, (False, True), strict=True):
        export_onnx(CARDS / name, file, int8)
        onnx.checker.check_model(file)
    assert files[1].stat().st_size < 0.5 * files[0].stat().st_size
    session = Session(files[0])
    clips = real_clips(window, each=5)
    short = [clips[0][:n] for n in (1, 300, 1000, 2500, 4000, 16_000)] + [np.resize(clips[0], window)]
    for batch in (clips, short, clips[:1], short[2:3]):
        np.testing.assert_allclose(run(session, batch), embedded(embedder, batch), atol=TOLERANCE)
    exact, rounded = (run(Session(file), clips) for file in files)
    cosines = (exact * rounded).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert cosines.min() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*sorted(set(CONVERTED) - set(REFUSED)), "ast", "whisper", *ALL_WAVEFORMS])
def test_every_kind_in_onnx_runtime(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    write_encoder(kind, folder, request.getfixturevalue("fixtures"))
    export_onnx(folder, tmp_path / "encoder.onnx")
    embedder, session = AudioEmbedder.from_pretrained(str(folder), device="cpu"), Session(tmp_path / "encoder.onnx")
    rate = embedder.feature_extractor.sampling_rate
    clips = [np.resize(clip, rate // 2) for clip in real_clips(8000, each=1)]
    batches = [clips, clips[:1]]
    if len(session.get_inputs()) == 2:
        batches.append([clip[: n * rate // 1000] for clip, n in zip(clips, (5, 100, 400), strict=True)])
    for batch in batches:
        expected = embedded(embedder, batch)
        np.testing.assert_allclose(run(session, batch), expected, atol=TOLERANCE * max(1, np.abs(expected).max()))


ALONE = """
import sys

import numpy as np
import torch

inputs = [torch.from_numpy(value) for value in np.load(sys.argv[2]).values()]
embeddings = torch.export.load(sys.argv[1]).module()(*inputs)
assert not {"transformers", "uamix_hf"} & set(sys.modules)
np.save(sys.argv[3], embeddings.detach().numpy())
"""


@pytest.mark.slow
def test_a_process_without_this_package_runs_the_program(toy: Path, tmp_path: Path) -> None:
    export_program(toy, tmp_path / "toy.pt2")
    assert b"log_mel_graph.py" not in (tmp_path / "toy.pt2").read_bytes()
    clips = real_clips(5000)
    np.savez(tmp_path / "inputs.npz", **padded(clips))
    (tmp_path / "alone.py").write_text(ALONE)
    command = [sys.executable, "alone.py", "toy.pt2", "inputs.npz", "found.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    embedder = AudioEmbedder.from_pretrained(str(toy), device="cpu")
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), embedded(embedder, clips), atol=TOLERANCE)
