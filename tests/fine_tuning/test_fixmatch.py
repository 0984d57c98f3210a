"""Clips without labels: their distorted views are taught what the model is sure of, and nothing else of them."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toy_sounds import CONFIG, EXTRACTOR, PLAIN, log_mels, tones
from transformers import set_seed

from uamix_hf import AudioMAEModel, DataError
from uamix_hf.data import FeatureCollator
from uamix_hf.fine_tuning import (
    FineTuningArguments,
    FineTuningTrainer,
    FixMatchArguments,
    FixMatchTrainer,
    make_classifier,
)
from uamix_hf.fine_tuning.labels import with_labels

WAVES, LABELS = tones(90)
LABELLED, UNLABELLED, TEST = np.arange(6), np.arange(6, 60), np.arange(60, 90)


@pytest.fixture(scope="module")
def clips():
    return log_mels(WAVES)


@pytest.fixture
def make(clips, tmp_path):
    """`make(unlabelled=UNLABELLED, problem_type=..., fixmatch={}, **arguments)`: a trainer of random weights."""

    def make(unlabelled=UNLABELLED, problem_type="single_label_classification", fixmatch=None, **arguments):
        fixed = {"output_dir": str(tmp_path), "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
                 "report_to": "none", "logging_steps": 1, "per_device_train_batch_size": 6, "max_steps": 2}  # fmt: skip
        set_seed(0)
        model = make_classifier(AudioMAEModel(CONFIG), 3, problem_type=problem_type)
        torch.nn.init.normal_(model.classifier.weight, std=0.3)  # as after training: some clips are surer than others
        args = FineTuningArguments(**{**fixed, **PLAIN, **arguments})
        labelled = with_labels(clips, LABELS.astype(np.int64)).select(LABELLED)
        return FixMatchTrainer(
            model, args, labelled, EXTRACTOR, clips.select(unlabelled), FixMatchArguments(**(fixmatch or {}))
        )

    return make


def one_batch(trainer: FixMatchTrainer, epoch: int = 0) -> dict:
    return trainer.data_collator([{**trainer.train_dataset[row], "visit": (epoch, 0)} for row in range(6)])


@pytest.mark.parametrize("sure", [0, 9, 18])
def test_the_loss_is_the_closed_form(make, sure: int) -> None:
    """With a threshold that so many of the clips reach."""
    trainer = make(fixmatch={"unlabelled_weight": 0.7, "unlabelled_ratio": 3})
    model, batch = trainer.model.eval(), one_batch(trainer)
    with torch.no_grad():
        weak = model(batch["weak"]["input_values"], batch["weak"]["attention_mask"]).logits.double().softmax(1)
        strong = model(batch["strong"]["input_values"], batch["strong"]["attention_mask"]).logits
        labelled = model(batch["input_values"], batch["attention_mask"]).logits
    confidence = np.sort([max(row) for row in weak.tolist()])
    bounds = [0.0, *confidence, 1.0]
    trainer.fixmatch.confidence_threshold = (bounds[18 - sure] + bounds[19 - sure]) / 2
    loss = trainer.compute_loss(model.train(), batch)
    terms = []
    for clip in range(18):
        if weak[clip].max() >= trainer.fixmatch.confidence_threshold:
            terms.append(-strong[clip].log_softmax(0)[weak[clip].argmax()].item())
    supervised = F.cross_entropy(labelled, batch["labels"]).item()
    assert len(terms) == sure
    assert loss.item() == pytest.approx(supervised + 0.7 * sum(terms) / 18, rel=1e-4)
    assert trainer._parts["pseudo_label_fraction"][0].item() == pytest.approx(sure / 18)


def test_no_gradient_goes_through_the_pseudo_labels(make) -> None:
    """The gradient equals that of the loss with the labels as constants."""
    trainer = make(fixmatch={"confidence_threshold": 0.34})
    model, batch = trainer.model, one_batch(trainer)
    trainer.compute_loss(model, batch).backward()
    found = model.classifier.weight.grad.clone()
    model.zero_grad()
    with torch.no_grad():
        weak = model(batch["weak"]["input_values"], batch["weak"]["attention_mask"]).logits.softmax(1)
    logits = model(batch["strong"]["input_values"], batch["strong"]["attention_mask"]).logits
    surprise = F.cross_entropy(logits, weak.argmax(1), reduction="none")[weak.max(1).values >= 0.34].sum()
    clean = F.cross_entropy(model(batch["input_values"], batch["attention_mask"]).logits, batch["labels"])
    (clean + surprise / len(weak)).backward()
    torch.testing.assert_close(model.classifier.weight.grad, found, rtol=1e-4, atol=1e-6)


def test_weak_and_strong_views_are_of_the_same_clips_which_have_no_label(make, clips) -> None:
    trainer = make(
        roll=False, gain_alpha=0.0, time_mask_fraction=0.2, mel_mask_fraction=0.4, fixmatch={"unlabelled_ratio": 4}
    )
    batch = one_batch(trainer)
    ids = batch["weak"]["sample_id"].tolist()
    assert ids == batch["strong"]["sample_id"].tolist() and len(set(ids)) == 24 and set(ids) <= set(UNLABELLED.tolist())
    assert torch.equal(batch["weak"]["attention_mask"], batch["strong"]["attention_mask"])
    plain = FeatureCollator(EXTRACTOR, 64, normalize=True)([clips[number] for number in ids])
    assert torch.equal(batch["weak"]["input_values"], plain["input_values"])
    far = (batch["strong"]["input_values"] - plain["input_values"]).abs().mean(dim=(1, 2))
    assert (far > 0.01).all()


def test_draws_depend_on_seed_epoch_and_clips_alone_and_leave_the_global_state(make) -> None:
    trainer = make()
    state = torch.random.get_rng_state()
    first = one_batch(trainer)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    again = one_batch(trainer)
    assert torch.equal(first["strong"]["input_values"], again["strong"]["input_values"])
    assert one_batch(trainer, epoch=1)["weak"]["sample_id"].tolist() != first["weak"]["sample_id"].tolist()


@pytest.mark.slow
def test_distorted_clips_are_learnt_without_their_labels(make, clips) -> None:
    """A model that knows clean clips, and distorted ones hardly, learns these from clips whose labels it never sees."""
    accuracy = {}
    for weight in (0.0, 1.0):
        settings = {"unlabelled_weight": weight, "confidence_threshold": 0.6, "strong_equalizer_db": 30.0}
        trainer = make(fixmatch=settings, max_steps=60, learning_rate=1e-3, logging_steps=60)
        rows = with_labels(clips, LABELS.astype(np.int64)).select(range(30))
        FineTuningTrainer(trainer.model, trainer.args, rows, EXTRACTOR).train()
        trainer.train()
        mels = [clips[int(row)]["features"].float() for row in TEST] * 5
        batch = trainer.data_collator.pad(
            trainer.data_collator.strong_views(mels, np.random.default_rng(0)), list(range(len(mels)))
        )
        with torch.no_grad():
            logits = trainer.model.eval()(batch["input_values"], batch["attention_mask"]).logits
        accuracy[weight] = (logits.argmax(1).numpy() == np.tile(LABELS[TEST], 5)).mean()
    assert accuracy[1.0] > accuracy[0.0] + 0.05


def test_the_parts_of_the_loss_are_logged(make) -> None:
    trainer = make(fixmatch={"unlabelled_weight": 0.5, "confidence_threshold": 0.34})
    trainer.train()
    for entry in trainer.state.log_history[:2]:
        assert entry["loss"] == pytest.approx(entry["loss_labelled"] + 0.5 * entry["loss_unlabelled"], rel=1e-3)
        assert 0 <= entry["pseudo_label_fraction"] <= 1
    json.dumps(trainer.state.log_history)


def test_what_cannot_be_learnt_so_is_refused_before_training(make) -> None:
    with pytest.raises(DataError, match="no unlabelled clip"):
        make(unlabelled=[])
    with pytest.raises(ValueError, match="has no single class per clip"):
        make(problem_type="multi_label_classification")


@pytest.mark.parametrize(
    "wrong",
    [
        {"unlabelled_ratio": 0},
        {"confidence_threshold": 1.0},
        {"unlabelled_weight": -1.0},
        {"strong_resize_time": 0.5},
        {"strong_equalizer_db": -1.0},
    ],
)
def test_values_out_of_range_are_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FixMatchArguments(**wrong)
