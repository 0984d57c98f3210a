"""Encoders in sentence-transformers give the vectors of AudioEmbedder, are trained there, and come back."""

import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import KINDS, short_encoder, slow_but, write_encoder
from datasets import Audio, Dataset
from hub_server import HubServer
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    util,
)
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util.environment import check_version_requirements
from toy_sounds import CONFIG, EXTRACTOR, tones, write_tones
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    set_seed,
)

from uamix_hf import AudioEmbedder, AudioInputError, AudioMAEModel, load_audio
from uamix_hf.__main__ import main
from uamix_hf.embedding import EmbeddingSettings, load_encoder, load_feature_extractor, save_encoder
from uamix_hf.hub import module_files
from uamix_hf.hub.push import push_folder
from uamix_hf.hub.sentence_transformers import AudioEncoder

CARDS = Path(__file__).parents[2] / "model_cards"
WAVES = tones(6)[0]


# Of layer, pooling and whitening, what an encoder of transformers has in its settings.
CHOSEN = {"ast": (1, "mean", 5), "whisper": (1, None, 6)}


def whitening(width: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(width, generator=generator), torch.randn(width, size, generator=generator)


def made(kind: str) -> tuple:
    """An encoder with a layer, pooling and whitening of its own, and its feature extractor."""
    set_seed(0)
    if kind == "audio_mae":
        encoder = AudioMAEModel(copy.deepcopy(CONFIG))
        encoder.config.whitening_size = 8
        encoder = AudioMAEModel(encoder.config)
        encoder.whitening.matrix.normal_()
        encoder.whitening.mean.normal_()
        return encoder, EXTRACTOR
    encoder, extractor = short_encoder(kind)
    layer, pooling, size = CHOSEN[kind]
    encoder.embedding_settings = EmbeddingSettings(layer, pooling, whitening(32, size))
    return encoder, extractor


@pytest.fixture(params=["audio_mae", "ast", "whisper"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Folder of a tuned encoder, with a card."""
    return saved(request.param, tmp_path / "tuned")


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """Folder of one tuned encoder, as it is written after tuning."""
    folder = saved("audio_mae", tmp_path / "tuned")
    module_files.save_module_files(folder)
    return folder


def saved(kind: str, folder: Path) -> Path:
    encoder, extractor = made(kind)
    save_encoder(encoder, folder, extractor)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA card.\n")
    return folder


def loaded(folder: str | Path, **options) -> SentenceTransformer:
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu", **options)


def embedded(folder: Path, inputs: list) -> np.ndarray:
    return AudioEmbedder.from_pretrained(str(folder), device="cpu").encode(inputs, progress_bar=False)


def test_vectors_of_every_kind_are_those_of_the_embedder(folder: Path, tmp_path: Path, capsys) -> None:
    files = sorted(write_tones(tmp_path / "sounds", 3).iterdir())
    long = np.concatenate(WAVES)  # of several windows
    inputs = [*map(str, files), *WAVES[3:], long, WAVES[0][:300], {"array": WAVES[1], "sampling_rate": 8000}]
    target = tmp_path / "exported"
    assert main(["export", "--sentence_transformers", str(folder), str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    model = loaded(target)
    expected = embedded(folder, inputs)
    for batch_size in (32, 3):
        vectors = model.encode(inputs, batch_size=batch_size)
        assert vectors.dtype == np.float32 and vectors.shape == expected.shape
        np.testing.assert_allclose(vectors, expected, atol=1e-5 * np.abs(expected).max())
    assert model.get_embedding_dimension() == expected.shape[1] and model.modalities == ["audio"]
    assert len(np.unique(vectors.round(3), axis=0)) == len(inputs)
    assert (target / "README.md").read_text() == (folder / "README.md").read_text()


def test_an_encoder_that_is_exported_in_half_precision_loads(folder: Path, tmp_path: Path) -> None:
    assert main(["export", str(folder), str(tmp_path / "half")]) == 0
    vectors, expected = loaded(tmp_path / "half").encode(WAVES[:3]), embedded(tmp_path / "half", WAVES[:3])
    np.testing.assert_allclose(vectors, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", slow_but(("passt", "mae_ast", "clap", "wav2vec2-layer-norm"), KINDS))
def test_every_encoder_of_the_package(kind: str, tmp_path: Path, fixtures: Path) -> None:
    folder = write_encoder(kind, tmp_path / "encoder", fixtures)
    module_files.save_module_files(folder)
    expected = embedded(folder, WAVES[:3])
    np.testing.assert_allclose(loaded(folder).encode(WAVES[:3]), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["audio-mae-tiny", "uamix-mae-tiny", "uamix-whisper-tiny.en"])
def test_the_encoders_of_this_repository_have_the_module_files(name: str, tmp_path: Path) -> None:
    module_files.save_module_files(tmp_path)
    for file in tmp_path.iterdir():
        assert (CARDS / name / file.name).read_text() == file.read_text()
    assert loaded(CARDS / name).get_embedding_dimension() == AudioEmbedder.from_pretrained(CARDS / name).embedding_size


def test_a_released_encoder_gives_what_transformers_gives(tmp_path: Path) -> None:
    source, clip = str(CARDS / "uamix-mae-tiny"), load_audio(CARDS.parent / "examples" / "siren.flac")[:48_000]
    assert main(["export", "--sentence_transformers", source, str(tmp_path)]) == 0
    inputs = AutoFeatureExtractor.from_pretrained(source)(clip, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(source)(**inputs).pooler_output[0].numpy()
    vector = loaded(tmp_path).encode(clip)
    np.testing.assert_allclose(vector, expected, atol=1e-5)
    unit = loaded(tmp_path).encode([clip], normalize_embeddings=True, convert_to_tensor=True)
    torch.testing.assert_close(unit[0], torch.from_numpy(expected / np.linalg.norm(expected)), atol=1e-5, rtol=0)


@pytest.mark.slow  # the random encoder of the same kind is not
def test_whispers_real_encoder_with_layer_and_whitening(whisper: Path, esc10: Path, tmp_path: Path) -> None:
    encoder = load_encoder(whisper, layer=2)
    encoder.embedding_settings = EmbeddingSettings(2, None, whitening(384, 32))
    save_encoder(encoder, tmp_path / "tuned", load_feature_extractor(whisper))
    module_files.save_module_files(tmp_path / "tuned")
    files = [str(file) for file in sorted((esc10 / "audio").iterdir())[::100]]
    inputs = [*files, load_audio(files[0])[:20_000], np.tile(load_audio(files[1]), 8)]
    expected = embedded(tmp_path / "tuned", inputs)
    vectors = loaded(tmp_path / "tuned").encode(inputs)
    np.testing.assert_allclose(vectors, expected, atol=1e-5 * np.abs(expected).max())


def test_every_form_of_a_recording(tuned: Path, tmp_path: Path) -> None:
    (file,) = write_tones(tmp_path / "sounds", 1).iterdir()
    wave = load_audio(file)
    stereo = {"array": np.stack([wave, wave]), "sampling_rate": 16_000}
    (column,) = Dataset.from_dict({"audio": [str(file)]}).cast_column("audio", Audio(decode=False))["audio"]
    assert column.keys() == {"bytes", "path"}
    forms = [str(file), file, wave, torch.from_numpy(wave), {"audio": str(file)}, {"audio": stereo}, stereo, column]
    model = loaded(tuned)
    vectors = model.encode(forms)
    np.testing.assert_allclose(vectors, np.tile(embedded(tuned, [wave]), (len(forms), 1)), atol=1e-5)
    assert model.encode(str(file)).shape == (8,) and model.encode_query([wave]).shape == (1, 8)
    assert len(model.encode([])) == 0


def test_semantic_search_finds_the_pitch(tuned: Path) -> None:
    model = loaded(tuned)
    corpus = model.encode(WAVES, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(corpus, axis=1), 1, atol=1e-6)
    query = model.encode(0.8 * WAVES[2], normalize_embeddings=True)
    ((first, *_),) = util.semantic_search(query, corpus, top_k=3)
    assert first["corpus_id"] == 2
    np.testing.assert_allclose(model.similarity(corpus, corpus), corpus @ corpus.T, atol=1e-6)


@pytest.mark.parametrize("form", ["a dog barks", "missing.wav", 3.5, np.zeros((2, 4000), np.float32), np.zeros(0)])
def test_what_is_no_recording_is_refused(tuned: Path, form) -> None:
    kind = {str: ValueError, float: TypeError, np.ndarray: AudioInputError}[type(form)]
    with pytest.raises(kind, match="audio|channels or clips|Expected a path|empty|no samples"):
        loaded(tuned).encode([form])
    with pytest.raises((ValueError, TypeError)):
        loaded(tuned).encode([WAVES[0], form])


def test_nothing_that_is_given_is_ignored(tuned: Path, tmp_path: Path) -> None:
    model = loaded(tuned)
    for options, word in (({"prompt": "query: "}, "prompt"), ({"processing_kwargs": {"a": 1}}, "processing_kwargs")):
        with pytest.raises(ValueError, match=word):
            model.encode(WAVES, **options)
    with pytest.raises(AttributeError, match="max_seq_length"):
        model.max_seq_length = 100
    with pytest.raises(ValueError, match="safetensors"):
        model.save_pretrained(str(tmp_path / "again"), safe_serialization=False)
    for options, word in (
        ({"processor_kwargs": {"max_length": 32}}, "processor_kwargs"),
        ({"config_kwargs": {"whitening_size": 0}}, "config_kwargs"),
        ({"backend": "onnx"}, "onnx"),
    ):
        with pytest.raises(ValueError, match=word):
            loaded(tuned, **options)
    with pytest.raises(ValueError, match="trust_remote_code=True"):  # the rule of sentence-transformers
        SentenceTransformer(str(tuned))
    with torch.no_grad():
        model[0].model.layers[0].mlp.fc1.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        model.encode(WAVES)


def test_no_trust_is_needed_for_a_module_that_is_there(tuned: Path) -> None:
    module = AudioEncoder.load(tuned)
    vectors = SentenceTransformer(modules=[module], device="cpu").encode(WAVES)
    np.testing.assert_allclose(vectors, embedded(tuned, WAVES), atol=1e-5)


def test_what_is_saved_there_is_loaded_here(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "again"
    module_files.save_module_files(folder)
    model = loaded(folder, truncate_dim=4)
    model.save_pretrained(str(target))
    expected = embedded(folder, WAVES)
    np.testing.assert_allclose(embedded(target, WAVES), expected, atol=1e-6)
    again = loaded(target)
    np.testing.assert_allclose(again.encode(WAVES), expected[:, :4], atol=1e-5)  # its own settings are kept, too
    assert json.loads((target / "modules.json").read_text()) == json.loads((folder / "modules.json").read_text())
    theirs, ours = (json.loads((one / "config_sentence_transformers.json").read_text()) for one in (target, folder))
    shared = ("model_type", "default_prompt_name", "similarity_fn_name")
    assert [theirs[name] for name in shared] == [ours[name] for name in shared]
    assert (target / "README.md").read_text() == (folder / "README.md").read_text()


def test_a_revision_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer() as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        address = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)
        pushed = []
        for kind in ("whisper", "ast"):  # the second commit replaces the first encoder
            folder = saved(kind, tmp_path / kind)
            module_files.save_module_files(folder)
            pushed.append(push_folder(folder, "user/mine", token=hub.token).split("/")[-1])
        options = {"cache_folder": str(tmp_path / "cache"), "token": hub.token}
        for kind, revision in zip(("whisper", "ast"), pushed, strict=True):
            model = loaded("user/mine", revision=revision, **options)
            expected = embedded(tmp_path / kind, WAVES)
            np.testing.assert_allclose(model.encode(WAVES), expected, atol=1e-5 * np.abs(expected).max())
        assert hub.unhandled == []


def test_losses_train_the_encoder(tuned: Path, tmp_path: Path) -> None:
    files = sorted(map(str, write_tones(tmp_path / "sounds", 6).iterdir()))
    pairs = Dataset.from_dict({"anchor": files, "positive": [*files[3:], *files[:3]]})
    model = loaded(tuned)
    before = model.encode(files)
    args = SentenceTransformerTrainingArguments(
        str(tmp_path / "run"), max_steps=2, save_steps=2, per_device_train_batch_size=3, learning_rate=1e-2,
        use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    SentenceTransformerTrainer(model, args, train_dataset=pairs, loss=MultipleNegativesRankingLoss(model)).train()
    after = model.encode(files)
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(loaded(tmp_path / "run" / "checkpoint-2").encode(files), after, atol=1e-5)


def test_gradients_are_those_of_the_pooled_output_and_of_losses_in_parts(tuned: Path) -> None:
    model = loaded(tuned).eval()
    sides = [model.preprocess(WAVES[:3]), model.preprocess(WAVES[3:])]

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return [one.grad.clone() for one in model.parameters() if one.grad is not None]

    whole = gradients(MultipleNegativesRankingLoss(model)(sides, None))
    parts = gradients(CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)(sides, None))
    extractor = AutoFeatureExtractor.from_pretrained(tuned)
    pooled = [
        torch.cat([
            model[0].model(**extractor(wave, sampling_rate=16_000, return_tensors="pt")).pooler_output
            for wave in half
        ])
        for half in (WAVES[:3], WAVES[3:])
    ]  # fmt: skip
    scores = 20 * util.cos_sim(*pooled)
    plain = gradients(torch.nn.functional.cross_entropy(scores, torch.arange(3)))
    assert len(whole) == len(plain) > 10
    largest = max(float(one.abs().max()) for one in whole)
    for others in (parts, plain):
        for one, other in zip(whole, others, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5 * largest, rtol=1e-3)

    several = model.preprocess([np.concatenate(WAVES), *WAVES[:2]])
    with pytest.raises(ValueError, match="max_length"):  # its windows cannot be told apart in a part of the batch
        CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)([several, several], None)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_half_precision(folder: Path, name: str) -> None:
    module_files.save_module_files(folder)
    model = loaded(folder, model_kwargs={name: torch.bfloat16})
    assert model.dtype == torch.bfloat16
    vectors, expected = model.encode(WAVES), embedded(folder, WAVES)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=0.1 * np.abs(expected).max())
    assert np.abs(vectors - expected).max() > 0


def test_what_cannot_be_exported_is_said(tuned: Path, tmp_path: Path, capsys) -> None:
    assert main(["export", "--sentence_transformers", str(tuned), str(tuned / ".." / "tuned")]) == 1
    assert "another folder" in capsys.readouterr().err
    assert main(["export", "--sentence_transformers", str(tmp_path / "nothing"), str(tmp_path / "out")]) == 1
    assert "nothing" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_is_missing_is_named(tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"{AudioEncoder.__module__}.{AudioEncoder.__qualname__}" == module_files.AUDIO_ENCODER
    environment = "sentence_transformers.util.environment.get_installed_version"
    with monkeypatch.context() as patch:
        patch.setattr(environment, lambda name: None)
        with pytest.raises(ImportError, match="uamix_hf, but it is not installed.*AudioEncoder"):
            check_version_requirements(module_files.CONFIG["requirements"])
        with pytest.raises(ImportError, match="uamix_hf"):
            loaded(tuned)
    monkeypatch.setitem(sys.modules, "sentence_transformers.base.modules", None)
    spec = importlib.util.find_spec("uamix_hf.hub.sentence_transformers")
    with pytest.raises(ImportError, match=r"pip install 'uamix_hf\[sentence-transformers\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


FRESH = """
import sys
import numpy as np

if __name__ == "__main__":
    from sentence_transformers import SentenceTransformer

    assert "uamix_hf" not in sys.modules
    model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device="cpu")
    files = sys.argv[3:]
    np.savez(sys.argv[2], one=model.encode(files), several=model.encode(files, device=["cpu"], chunk_size=2))
"""


@pytest.mark.slow  # two processes and their imports
def test_a_process_that_imports_nothing_of_ours_and_a_pool_of_processes(tuned: Path, tmp_path: Path) -> None:
    files = sorted(map(str, write_tones(tmp_path / "sounds", 4).iterdir()))
    (tmp_path / "fresh.py").write_text(FRESH)
    environment = os.environ | {"PYTHONPATH": str(CARDS.parent)}
    command = [sys.executable, tmp_path / "fresh.py", tuned, tmp_path / "vectors.npz", *files]
    done = subprocess.run([*map(str, command)], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = np.load(tmp_path / "vectors.npz")
    for name in ("one", "several"):
        np.testing.assert_allclose(found[name], embedded(tuned, files), atol=1e-5)
