"""Supervised fine-tuning learns what its rows say, and nothing from any other row."""

import copy

import numpy as np
import pytest
import torch
from toy_sounds import CONFIG, EXTRACTOR, PLAIN, log_mels, tones
from transformers import set_seed

from uamix_hf import AudioEmbedder, AudioMAEConfig, AudioMAEModel
from uamix_hf.embedding.features import embed_features
from uamix_hf.fine_tuning import FineTuningArguments, fine_tune, predict, predict_logits

WAVES, LABELS = tones(60)
TRAIN, TEST = np.arange(30), np.arange(30, 60)


@pytest.fixture(scope="module")
def clips():
    return log_mels(WAVES)


@pytest.fixture
def encoder() -> AudioMAEModel:
    set_seed(0)
    return AudioMAEModel(CONFIG)


@pytest.fixture
def train(encoder, clips, tmp_path):
    """`train(rows=TRAIN, labels=LABELS, dataset=clips, encoder=encoder, **arguments)`: a fine-tuned classifier."""

    def train(rows=TRAIN, labels=LABELS, dataset=clips, encoder=encoder, classes=3, **arguments):
        fixed = {"output_dir": str(tmp_path), "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
                 "logging_strategy": "no", "per_device_train_batch_size": 10, "max_steps": 3}  # fmt: skip
        args = FineTuningArguments(**{**fixed, **arguments})
        return fine_tune(encoder, EXTRACTOR, dataset, rows, labels, classes, args)

    return train


def same_weights(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    mine, its = one.state_dict(), two.state_dict()
    assert mine.keys() == its.keys()
    return all(torch.equal(value, its[name]) for name, value in mine.items())


# --- what is learnt


def test_toy_sounds_are_told_apart_on_rows_that_were_not_trained_on(train, clips):
    model = train(max_steps=100, learning_rate=1e-3, **PLAIN)
    assert (predict(model, EXTRACTOR, clips, TEST) == LABELS[TEST]).mean() > 0.9


def test_wrong_labels_teach_wrong_classes(train, clips):
    """Each class called by the next one's number: right by the labels that were given, so never by the true ones."""
    model = train(labels=(LABELS + 1) % 3, max_steps=100, learning_rate=1e-3, **PLAIN)
    predicted = predict(model, EXTRACTOR, clips, TEST)
    assert (predicted == (LABELS[TEST] + 1) % 3).mean() > 0.9
    assert (predicted == LABELS[TEST]).mean() < 0.1


def test_labels_of_other_rows_never_matter(train, clips):
    shuffled, unknown, changed = LABELS.copy(), LABELS.copy(), LABELS.copy()
    shuffled[TEST] = np.random.default_rng(0).permutation(LABELS[TEST])
    assert (shuffled != LABELS).any()
    unknown[TEST] = -1
    changed[TRAIN[:5]] = (LABELS[TRAIN[:5]] + 1) % 3
    first = train()
    assert same_weights(first, train(labels=shuffled))
    assert same_weights(first, train(labels=unknown))
    assert same_weights(first, train(dataset=clips.add_column("labels", shuffled)))  # the data's own column
    assert not same_weights(first, train(labels=changed))


def test_clips_of_other_rows_never_matter(train):
    rows = np.array([3, 40, 7, 22, 51, 8, 14])
    others = np.setdiff1d(np.arange(60), rows)
    quiet = [np.zeros(8000, np.float32) if row in others else wave for row, wave in enumerate(WAVES)]
    assert same_weights(train(rows=rows), train(rows=rows, dataset=log_mels(quiet)))
    assert not same_weights(train(rows=rows), train(rows=others[: len(rows)]))


def test_the_seed_decides_everything(train):
    torch.manual_seed(5)
    first = train(seed=1)
    torch.manual_seed(6)
    assert same_weights(first, train(seed=1))
    assert not same_weights(first, train(seed=2))


def test_the_given_encoder_stays_as_it_is_and_what_is_frozen_in_it_frozen(train, encoder):
    encoder.layers[0].requires_grad_(False)
    before = copy.deepcopy(encoder)
    model = train(max_steps=5, weight_decay=0.1)
    assert same_weights(encoder, before) and not any(value.requires_grad for value in encoder.layers[0].parameters())
    for name, value in model.audio_mae.named_parameters():
        # The bias of keys shifts all scores of a query alike, so that it has no gradient but of rounding.
        if not name.endswith("k_proj.bias"):
            assert torch.equal(value, before.get_parameter(name)) == name.startswith("layers.0."), name


@pytest.mark.parametrize("options", [{"roll": False}, {"gain_alpha": 0}])
def test_augmentation_can_be_turned_off(train, options):
    plain = {"roll": False, "gain_alpha": 0}
    assert not same_weights(train(), train(**options))
    assert not same_weights(train(**options), train(**plain))


def test_a_run_that_logs_nothing_prints_nothing(train, capsys):
    train()
    assert capsys.readouterr().out == ""
    train(logging_strategy="steps", logging_steps=1)
    assert capsys.readouterr().out.count("'loss'") == 3


# --- what comes out


@pytest.mark.parametrize("pooling", ["mean", "cls", "mean_fc_norm"])
def test_the_saved_classifiers_encoder_is_what_was_trained(train, clips, tmp_path, pooling):
    """Its own pooling, so that embeddings are the inputs of the linear layer."""
    set_seed(0)
    model = train(encoder=AudioMAEModel(AudioMAEConfig(**{**CONFIG.to_dict(), "pooling": pooling})), max_steps=10)
    model.save_pretrained(tmp_path)
    loaded = AudioMAEModel.from_pretrained(tmp_path)
    assert loaded.config.pooling == pooling
    vectors = embed_features(loaded, EXTRACTOR, clips, TEST)
    logits = vectors @ model.classifier.weight.detach().numpy().T + model.classifier.bias.detach().numpy()
    np.testing.assert_allclose(logits, predict_logits(model, EXTRACTOR, clips, TEST), atol=1e-5)
    assert np.ptp(logits, axis=0).max() > 1e-3


def test_predictions_are_those_of_each_recording_alone(train, clips):
    """From the waveform, through the feature extractor and the classifier's own forward."""
    model = train(max_steps=20, learning_rate=1e-3).eval()
    for row in TEST[:9]:
        inputs = EXTRACTOR(WAVES[row], sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            assert model(**inputs).logits.argmax().item() == predict(model, EXTRACTOR, clips, [row])[0]


def test_cached_log_mels_embed_as_recordings_do(encoder, clips):
    rows = np.array([5, 59, 0, 17])
    vectors = embed_features(encoder, EXTRACTOR, clips, rows, batch_size=3)
    expected = AudioEmbedder(encoder, EXTRACTOR).encode([WAVES[row] for row in rows], progress_bar=False)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=5e-3)  # log-mels are cached as float16


def test_a_long_recording_is_the_mean_of_its_windows(encoder):
    """150 frames are windows of 64, 64 and 22."""
    long = log_mels([np.random.default_rng(0).normal(0, 0.1, 160 * 149 + 400).astype(np.float32), WAVES[0]])
    mel = EXTRACTOR.normalize(long[0]["features"].float())
    assert len(mel) == 150
    expected = 0
    for part in (mel[:64], mel[64:128], mel[128:]):
        padded = torch.nn.functional.pad(part, (0, 0, 0, -len(part) % 16), value=EXTRACTOR.padding_value)
        mask = (torch.arange(len(padded)) < len(part)).long()
        with torch.no_grad():
            expected += len(part) / 150 * encoder.eval()(padded[None], attention_mask=mask[None]).pooler_output[0]
    for batch_size in (1, 2, 8):
        vectors = embed_features(encoder, EXTRACTOR, long, batch_size=batch_size)
        np.testing.assert_allclose(vectors[0], expected.numpy(), atol=1e-5)


# --- what is refused


@pytest.mark.parametrize(
    "labels, message",
    [
        (LABELS[:59], r"\(59,\).*60 clips"),
        (LABELS.astype(float), "float64"),
        (np.eye(3, dtype=bool)[LABELS], r"bool \(60, 3\)"),
        (np.where(np.arange(60) == 7, 3, LABELS), "Row 7 has label 3.*0 ... 2"),
        (np.where(np.arange(60) == 7, -1, LABELS), "Row 7 has label -1"),
    ],
)
def test_unusable_labels_are_refused(train, labels, message):
    with pytest.raises(ValueError, match=message):
        train(labels=labels)


def test_no_rows_are_refused(train):
    with pytest.raises(ValueError, match="no rows"):
        train(rows=np.array([], int))
