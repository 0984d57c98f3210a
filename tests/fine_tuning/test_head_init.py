"""How a classifier's linear layer starts: as scikit-learn's classifiers of the same embeddings."""

import numpy as np
import pytest
import torch
from all_encoders import BUILDS, short_encoder, slow_but
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from toy_sounds import CONFIG, EXTRACTOR, log_mels, tones
from transformers import set_seed

from uamix_hf import AudioMAEConfig, AudioMAEModel
from uamix_hf.embedding import EmbeddingSettings
from uamix_hf.embedding.features import embed_features
from uamix_hf.fine_tuning import make_classifier, predict_logits
from uamix_hf.fine_tuning.head_init import head_inputs, linear_head, set_head

WAVES, LABELS = tones(24)
SEVERAL = np.stack([LABELS == 0, LABELS > 0, np.arange(24) % 5 == 0], axis=1).astype(np.float32)


def embeddings(clips: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Far from zero, and of unlike variances; classes of unlike sizes, the last of one clip."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.minimum(rng.geometric(0.5, clips - 1) - 1, classes - 2), [classes - 1]])
    centres = rng.normal(0, 2, (classes, 7))
    return 50 + (centres[labels] + rng.normal(0, 1, (clips, 7))) * np.geomspace(0.1, 30, 7), labels


def standardised(vectors: np.ndarray, of: np.ndarray) -> np.ndarray:
    return (vectors - of.mean(0)) / np.sqrt(of.var(axis=0).sum())


def logits(vectors: np.ndarray, head: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return vectors @ head[0].T + head[1]


# --- the classifiers


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_logits_are_the_decision_function_of_the_regression(classes: int, weighted: bool) -> None:
    vectors, labels = embeddings(40, classes)
    query = embeddings(30, classes, 1)[0]
    weights = np.random.default_rng(2).uniform(0.1, 3, 40) if weighted else None
    fitted = LogisticRegression(C=2.5, max_iter=10_000).fit(standardised(vectors, vectors), labels, weights)
    expected = fitted.decision_function(standardised(query, vectors))
    found = logits(query, linear_head(vectors, labels, classes, "logistic", 2.5, weights))
    found = found[:, 1] - found[:, 0] if classes == 2 else found
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert np.ptp(expected) > 1


def test_the_regression_is_a_minimum_of_the_regularised_loss_that_the_trainer_has() -> None:
    """By the gradient of torch's own cross-entropy."""
    vectors, labels = embeddings(40, 4)
    head = linear_head(vectors, labels, 4, c=3.0)
    centre, scale = vectors.mean(0), np.sqrt(vectors.var(axis=0).sum())
    weight = torch.tensor(head[0] * scale, requires_grad=True)
    bias = torch.tensor(head[1] + head[0] @ centre, requires_grad=True)
    scores = torch.from_numpy((vectors - centre) / scale) @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels), reduction="sum")
    (3.0 * loss + weight.square().sum() / 2).backward()
    assert weight.grad.abs().max() < 0.02 and bias.grad.abs().max() < 0.02 and weight.abs().max() > 0.5


@pytest.mark.parametrize("kind", ["logistic", "centroid"])
def test_embeddings_in_another_unit_and_place_give_the_same_logits(kind: str) -> None:
    vectors, labels = embeddings(40, 4)
    query = embeddings(10, 4, 1)[0]
    moved = linear_head(1000 * vectors - 7e4, labels, 4, kind)
    np.testing.assert_allclose(
        logits(1000 * query - 7e4, moved), logits(query, linear_head(vectors, labels, 4, kind)), atol=2e-2
    )


def test_centroid_logits_are_the_distances_of_scikit_learns_nearest_centroid() -> None:
    vectors, labels = embeddings(40, 5)
    query = embeddings(200, 5, 1)[0]
    peer = NearestCentroid().fit(vectors, labels)
    found = logits(query, linear_head(vectors, labels, 5, "centroid"))
    assert (found.argmax(axis=1) == peer.predict(query)).all()
    distances = ((query[:, None] - peer.centroids_) ** 2).sum(axis=2) / vectors.var(axis=0).sum()
    np.testing.assert_allclose(
        found - found.mean(axis=1, keepdims=True), distances.mean(axis=1, keepdims=True) - distances, atol=1e-8
    )


@pytest.mark.parametrize("kind", ["logistic", "centroid"])
def test_clips_of_several_classes_have_a_classifier_for_each(kind: str) -> None:
    vectors, _ = embeddings(40, 3)
    query = embeddings(200, 3, 1)[0]
    rng = np.random.default_rng(3)
    labels = (rng.random((40, 5)) < 0.4).astype(np.float32)
    labels[:, 1], labels[:, 3] = 0, 1  # of no clip, and of all
    labels[:, 4] = np.arange(40) == 7  # of one
    weight, bias = linear_head(vectors, labels, 5, kind)
    found = logits(query, (weight, bias))
    for number in (0, 2, 4):
        if kind == "logistic":
            peer = LogisticRegression(C=10, max_iter=10_000).fit(standardised(vectors, vectors), labels[:, number])
            expected = peer.decision_function(standardised(query, vectors))
            np.testing.assert_allclose(found[:, number], expected, atol=1e-8)
        else:
            peer = NearestCentroid().fit(vectors, labels[:, number])
            assert ((found[:, number] > 0) == (peer.predict(query) == 1)).all()
    assert not weight[[1, 3]].any()
    shares = 1 / (1 + np.exp(-bias[[1, 3]]))
    np.testing.assert_allclose(shares, [0.5 / 41, 40.5 / 41])


@pytest.mark.parametrize("kind", ["logistic", "centroid"])
@pytest.mark.parametrize("present", [[0, 2, 4], [1, 4]])
def test_classes_without_a_clip_leave_the_others_as_they_are(kind: str, present: list[int]) -> None:
    vectors, labels = embeddings(40, len(present))
    weight, bias = linear_head(vectors, np.array(present)[labels], 5, kind)
    others = [number for number in range(5) if number not in present]
    whole = linear_head(vectors, labels, len(present), kind)
    np.testing.assert_allclose(weight[present], whole[0])
    np.testing.assert_allclose(bias[present], whole[1])
    assert not weight[others].any() and np.allclose(bias[others], -np.log(81))
    assert np.isin(logits(vectors, (weight, bias)).argmax(axis=1), present).all()


@pytest.mark.parametrize("kind", ["logistic", "centroid"])
def test_equal_embeddings_and_a_single_class_give_finite_layers(kind: str) -> None:
    for vectors, labels in ((np.ones((6, 4)), np.arange(6) % 3), (embeddings(6, 2)[0], np.zeros(6, int))):
        weight, bias = linear_head(vectors, labels, 3, kind)
        assert np.isfinite(weight).all() and np.isfinite(bias).all()
        assert logits(vectors, (weight, bias)).argmax(axis=1)[0] == 0


# --- the layer of a model


def classifier(kind: str):
    set_seed(0)
    encoder, extractor = short_encoder(kind)
    if kind == "whisper":
        encoder.embedding_settings = EmbeddingSettings(2, "mean", (torch.full((32,), 0.1), torch.randn(32, 7)))
    model = make_classifier(encoder, 3, extractor, problem_type="single_label_classification")
    if hasattr(model, "dropout"):
        model.dropout.p = 0.5
    return model, encoder, extractor


@pytest.mark.parametrize("kind", slow_but(("audio_mae", "whisper", "wav2vec2"), BUILDS))
def test_logits_of_whole_recordings_are_those_of_the_head_inputs(kind: str) -> None:
    model, encoder, extractor = classifier(kind)
    long = [np.concatenate(WAVES[row : row + 5]) for row in range(0, 20, 4)]  # of several windows
    clips = log_mels([*long, *WAVES[20:]], extractor)
    assert max(clips["length"]) > 64 > min(clips["length"])
    inputs = head_inputs(model, extractor, clips, batch_size=4)
    np.testing.assert_allclose(inputs, embed_features(encoder, extractor, clips), atol=1e-4, rtol=1e-4)
    head = linear_head(inputs, np.arange(9) % 3, 3)
    set_head(model, *head)
    np.testing.assert_allclose(predict_logits(model, extractor, clips), logits(inputs, head), atol=2e-3)
    assert not model.classifier._forward_pre_hooks


@pytest.mark.parametrize("settings", [{"pooling": "mean_fc_norm"}, {"classifier_layer_norm_eps": 1e-6}])
def test_norms_before_the_layer_belong_to_its_inputs(settings: dict) -> None:
    set_seed(0)
    model = make_classifier(AudioMAEModel(AudioMAEConfig(**CONFIG.to_dict() | settings)), 3)
    clips = log_mels(WAVES)
    head = linear_head(head_inputs(model, EXTRACTOR, clips), LABELS, 3)
    set_head(model, *head)
    found = predict_logits(model, EXTRACTOR, clips)
    np.testing.assert_allclose(found, logits(head_inputs(model, EXTRACTOR, clips), head), atol=2e-3)
    assert (found.argmax(axis=1) == LABELS).mean() > 0.9
