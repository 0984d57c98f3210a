"""Tuning teaches something: embeddings do not collapse, neighbours become of one class, and silence breaks nothing."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from toy_sounds import CONFIG, EXTRACTOR, log_mels, tones
from transformers import set_seed

from uamix_hf import AudioMAEModel, UaMixForContrastiveTuning
from uamix_hf.fine_tuning import embed_log_mels
from uamix_hf.tuning import train_stages


@pytest.fixture
def model() -> UaMixForContrastiveTuning:
    set_seed(0)
    heads = {"projector_hidden_size": 32, "projection_size": 16, "predictor_hidden_size": 32}
    return UaMixForContrastiveTuning.from_encoder(
        AudioMAEModel(CONFIG), input_mean=EXTRACTOR.mean, input_std=EXTRACTOR.std, **heads
    )


def knn_accuracy(encoder: AudioMAEModel, clips, labels: np.ndarray) -> float:
    """Of leave-one-out with five neighbours, by scikit-learn."""
    vectors = embed_log_mels(encoder, EXTRACTOR, clips)
    return cross_val_score(KNeighborsClassifier(5), vectors, labels, cv=LeaveOneOut()).mean()


def test_embeddings_stay_apart_and_neighbours_become_of_one_class(model, make_args):
    waves, labels = tones(48)
    clips = log_mels(waves)
    before = knn_accuracy(model.encoder, clips, labels)
    args = make_args(max_steps=60, head_steps=5, per_device_train_batch_size=24, learning_rate=3e-3, logging_steps=5)
    log = train_stages(model, args, clips, EXTRACTOR).state.log_history
    spread = [entry["embedding_std"] for entry in log if "embedding_std" in entry]
    losses = [entry["loss_clean"] for entry in log if "loss_clean" in entry]
    assert min(spread) > 0.1  # 0 is a collapse
    assert losses[-1] < min(losses[0], np.log(24))  # of guessing which of the batch it is
    assert knn_accuracy(model.encoder, clips, labels) > max(0.9, before)


@pytest.mark.parametrize("silent", [1, 8])
def test_silence_in_a_batch_leaves_everything_finite(model, silent):
    waves = [np.zeros(4800, np.float32)] * silent + tones(8 - silent)[0]
    inputs = EXTRACTOR(waves, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    raw = inputs["input_values"] * 2 * EXTRACTOR.std + EXTRACTOR.mean
    output = model.train()(raw, inputs["attention_mask"], torch.arange(8))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
    with torch.no_grad():
        assert model.encoder(**inputs).pooler_output.isfinite().all()
