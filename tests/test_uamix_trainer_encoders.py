"""UaMixTrainer tunes encoders of transformers with feature extractors of their own, and saves them as transformers'."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from all_encoders import RANDOM, make_encoder
from toy_sounds import CONFIG, EXTRACTOR, tones
from transformers import AutoFeatureExtractor, set_seed

from uamix_hf import AudioEmbedder, AudioMAEModel, UaMixTrainer, UaMixTrainingArguments
from uamix_hf.embedding.kinds import settings_of
from uamix_hf.evaluation import ProtocolArguments, evaluate_encoders

HEADS = {"projector_hidden_size": 24, "projection_size": 16, "predictor_hidden_size": 32, "queue_size": 16, "topk": 2}
KINDS = ("clap", "wav2vec2-bert")
CLIPS = 18


def small(kind: str):
    return make_encoder(kind), RANDOM[kind].extractor()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    lines = ["file_name,label"]
    for number, (wave, label) in enumerate(zip(*tones(CLIPS, seed=3), strict=True)):
        soundfile.write(folder / f"{number:02}.wav", wave, 16_000)
        lines.append(f"{number:02}.wav,{'abc'[label]}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_is_tuned_whitened_and_saved(recordings: Path, kind: str, tmp_path: Path) -> None:
    encoder, own = small(kind)
    args = UaMixTrainingArguments(
        str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none", per_device_train_batch_size=6, max_steps=2,
        head_steps=1, save_strategy="no", recipe="plastic", warmup_steps=0, **HEADS,
    )  # fmt: skip
    trainer = UaMixTrainer(encoder, args, recordings, own)
    trainer.train()
    files = sorted(recordings.glob("*.wav"))
    now = AudioEmbedder(trainer.encoder, own).encode(files, progress_bar=False)
    assert settings_of(trainer.encoder).whitening is not None
    np.testing.assert_allclose(now.mean(0), 0, atol=0.05)  # whitened over these very clips
    loaded = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu")
    assert np.array_equal(loaded.encode(files, progress_bar=False), now)

    again = RANDOM[kind].model.from_pretrained(tmp_path)  # a folder of transformers
    assert all(torch.equal(value, trainer.encoder.state_dict()[name]) for name, value in again.state_dict().items())
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is type(own)


def test_encoders_of_other_rates_are_evaluated_side_by_side(recordings: Path) -> None:
    set_seed(0)
    encoders = {kind: small(kind) for kind in KINDS} | {"audio-mae": (AudioMAEModel(CONFIG).eval(), EXTRACTOR)}
    protocols = ProtocolArguments(["few_shot"], n_way=3, k_shot=[2], queries=3, episodes=10)
    results = evaluate_encoders(encoders, recordings, protocols=protocols, progress_bar=False)
    assert [model["name"] for model in results["models"]] == [*KINDS, "audio-mae"]
    assert all(model["scores"] for model in results["models"])
