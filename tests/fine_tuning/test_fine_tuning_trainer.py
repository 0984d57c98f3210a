"""What the optimiser is given, what stays frozen, whole recordings in evaluation, and the model that is kept."""

import copy
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_sounds import CONFIG, EXTRACTOR, PLAIN, log_mels, tones
from transformers import TrainerCallback, set_seed

from uamix_hf import AudioMAEConfig, AudioMAEForAudioClassification, AudioMAEModel
from uamix_hf.fine_tuning import (
    FineTuningArguments,
    FineTuningTrainer,
    make_classifier,
    predict,
    predict_logits,
    with_labels,
)

WAVES, LABELS = tones(36)
TRAIN, TEST = np.arange(24), np.arange(24, 36)


@pytest.fixture(scope="module")
def clips():
    return log_mels(WAVES)


def classifier(
    problem: str = "single_label_classification", outputs: int = 3, **config
) -> AudioMAEForAudioClassification:
    set_seed(0)
    encoder = AudioMAEModel(AudioMAEConfig(**{**CONFIG.to_dict(), **config}))
    names = dict(enumerate("abcdefgh"[:outputs]))
    return make_classifier(encoder, outputs, problem_type=problem, id2label=names)


@pytest.fixture
def trainer(clips, tmp_path):
    """`trainer(model=None, values=LABELS, evaluates=False, callbacks=(), **arguments)`."""

    def trainer(model=None, values=LABELS, evaluates=False, callbacks=(), **arguments):
        fixed = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "disable_tqdm": True, "report_to": "none",
                 "per_device_train_batch_size": 8, "max_steps": 4, "save_strategy": "no"}  # fmt: skip
        labelled = with_labels(clips, values)
        return FineTuningTrainer(
            classifier() if model is None else model,
            FineTuningArguments(**{**fixed, **arguments}),
            labelled.select(TRAIN),
            EXTRACTOR,
            labelled.select(TEST) if evaluates else None,
            callbacks,
        )

    return trainer


def changed(before: torch.nn.Module, after: torch.nn.Module) -> set[str]:
    mine, its = before.state_dict(), after.state_dict()
    return {name for name, value in mine.items() if not torch.equal(value, its[name])}


# --- parameter groups


@pytest.mark.parametrize("pooling", ["mean", "cls", "mean_fc_norm"])
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_every_trainable_parameter_has_its_rate_and_decay_once(trainer, pooling, frozen):
    model = classifier(pooling=pooling)
    made = trainer(model, learning_rate=1e-3, weight_decay=0.05, layer_decay=0.65, freeze_blocks=frozen)
    found = {}
    for group in made.create_optimizer().param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = (group["lr"], group["weight_decay"])
    for name, parameter in model.named_parameters():
        block = re.match(r"audio_mae\.layers\.(\d+)\.", name)
        stem = name.startswith("audio_mae.embeddings.")
        if frozen and (stem or (block and int(block[1]) < frozen)):
            assert not parameter.requires_grad and id(parameter) not in found, name
            continue
        # Of two blocks: stem at 0.65 ** 3, blocks at 0.65 ** 2 and 0.65, what follows and the layer at 1.
        power = 3 if stem else 2 - int(block[1]) if block else 0
        plain = name.endswith((".bias", "cls_token")) or "norm" in name
        assert found.pop(id(parameter)) == (pytest.approx(1e-3 * 0.65**power), 0.0 if plain else 0.05), name
    assert not found
    assert not any(name.endswith("position_embeddings") for name, _ in model.named_parameters())  # fixed, a buffer


# --- freezing


def test_a_linear_probe_changes_nothing_in_the_encoder(trainer):
    model = classifier()
    before = copy.deepcopy(model)
    modes = set()
    model.audio_mae.layers[1].register_forward_pre_hook(lambda module, inputs: modes.add(module.training))
    made = trainer(model, linear_probe=True, learning_rate=0.1, weight_decay=0.5)
    made.train()
    assert changed(before, model) == {"classifier.weight", "classifier.bias"}
    assert modes == {False}
    assert sum(len(group["params"]) for group in made.optimizer.param_groups) == 2


def test_a_linear_probe_sees_whole_clips(tmp_path):
    args = FineTuningArguments(str(tmp_path), use_cpu=True, linear_probe=True, patchout_ratio=0.5)
    assert set(args.model_settings(AudioMAEModel(CONFIG)).values()) == {0.0}
    assert FineTuningArguments(str(tmp_path), use_cpu=True).model_settings(AudioMAEModel(CONFIG)) == {
        "drop_path_rate": 0.1, "patchout_ratio": 0.0, "patchout_time_ratio": 0.2, "patchout_mel_ratio": 0.2
    }  # fmt: skip


def test_frozen_blocks_are_bit_identical_and_run_without_drop_path(trainer):
    model = classifier(drop_path_rate=0.5)
    before, modes = copy.deepcopy(model), []
    for layer in model.audio_mae.layers:
        layer.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    trainer(model, freeze_blocks=1, learning_rate=0.01, head_init="random").train()
    moved = changed(before, model)
    assert not any(name.startswith(("audio_mae.embeddings.", "audio_mae.layers.0.")) for name in moved)
    assert {"audio_mae.layers.1.mlp.fc1.weight", "classifier.weight"} <= moved
    assert modes == [False, True] * 4


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"freeze_blocks": 3}, "freeze_blocks=3: the encoder has 2 layers"),
        ({"freeze_blocks": -1}, "freeze_blocks=-1"),
        ({"freeze_blocks": 1, "linear_probe": True}, "linear_probe"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"time_mask_fraction": 1.0}, "time_mask_fraction"),
        ({"mel_mask_fraction": -0.1}, "mel_mask_fraction"),
        ({"patchout_mel_ratio": 1.0}, "patchout_mel_ratio"),
        ({"mixup_probability": 1.5}, "mixup_probability"),
        ({"mixup_alpha": 0.0}, "mixup_alpha"),
    ],
)
def test_unusable_arguments_are_refused_by_name(trainer, wrong, message):
    with pytest.raises(ValueError, match=message):
        trainer(**wrong)


# --- losses


def test_losses_are_those_of_their_definition(trainer):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (5, 3))
    log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    soft = rng.dirichlet([1, 1, 1], 5)
    hard = np.array([0, 2, 1, 1, 0])
    single = trainer().loss
    given = torch.from_numpy(logits)
    assert single(given, torch.from_numpy(soft).float()).item() == pytest.approx(-(soft * log_shares).sum(1).mean())
    assert single(given, torch.from_numpy(hard)).item() == pytest.approx(-log_shares[np.arange(5), hard].mean())
    several = trainer(classifier("multi_label_classification"), np.eye(3, dtype=np.float32)[LABELS]).loss
    yes = 1 / (1 + np.exp(-logits))
    expected = -(soft * np.log(yes) + (1 - soft) * np.log(1 - yes)).mean()
    assert several(given, torch.from_numpy(soft)).item() == pytest.approx(expected, rel=1e-5)
    heights = np.linspace(-300, 700, 36).astype(np.float32)
    number = trainer(classifier("regression", 1), heights).loss
    mean, std = heights[TRAIN].mean(), heights[TRAIN].std()
    expected = ((logits[:, 0] - (heights[:5] - mean) / std) ** 2).mean()
    assert number(given[:, :1], torch.from_numpy(heights[:5])).item() == pytest.approx(expected, rel=1e-4)


def test_a_regression_learns_alike_in_any_unit(trainer):
    """Metres or millimetres over sea level: predictions that follow, in the column's own unit."""
    values, found = LABELS.astype(np.float32), []
    for unit, level in ((1.0, 0.0), (1000.0, 5000.0)):
        made = trainer(classifier("regression", 1), unit * values + level, max_steps=20, learning_rate=2e-3, **PLAIN)
        made.train()
        output = made.predict(with_labels(log_mels(WAVES), unit * values + level).select(TEST))
        errors = output.predictions[:, 0] - (unit * values + level)[TEST]
        assert output.metrics["test_mse"] == pytest.approx((errors**2).mean(), rel=1e-3)
        with torch.no_grad():  # as any user of the saved model would
            inputs = EXTRACTOR(WAVES[24], sampling_rate=16_000, return_tensors="pt")
            assert made.model(**inputs).logits.item() == pytest.approx(output.predictions[0, 0], abs=0.02 * unit)
        found.append((output.predictions[:, 0] - level) / unit)
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    assert found[0].std() > 0.1


# --- evaluation


def test_evaluation_averages_the_windows_of_each_whole_recording():
    """150 frames are windows of 64, 64 and 22: logits in these shares, whatever is in the batch."""
    rng = np.random.default_rng(0)
    waves = [rng.normal(0, 0.1, 160 * (frames - 1) + 400).astype(np.float32) for frames in (150, 40, 64, 65)]
    dataset, model = log_mels(waves), classifier(classifier_initializer_range=0.5).train()
    by_hand = []
    for row in dataset:
        mel, logits = EXTRACTOR.normalize(row["features"].float()), 0
        for part in mel.split(64):
            padded = torch.nn.functional.pad(part, (0, 0, 0, -len(part) % 16), value=EXTRACTOR.padding_value)
            mask = (torch.arange(len(padded)) < len(part)).long()
            with torch.no_grad():
                logits += len(part) / len(mel) * copy.deepcopy(model).eval()(padded[None], mask[None]).logits[0]
        by_hand.append(logits)
    expected = torch.stack(by_hand).numpy()
    assert np.ptp(expected, axis=0).min() > 0.01
    for batch_size in (1, 3, 16):
        np.testing.assert_allclose(predict_logits(model, EXTRACTOR, dataset, None, batch_size), expected, atol=1e-5)


def test_numbers_that_are_not_finite_become_no_class(clips):
    """The class number of NaN logits would be 0."""
    model = classifier()
    model.classifier.bias.data[:] = torch.nan
    for function in (predict_logits, predict):
        with pytest.raises(ValueError, match=r"not finite for 3 of 3 recordings, of sample_id \[2, 30, 4\]"):
            function(model, EXTRACTOR, clips, np.array([2, 30, 4]))
        with pytest.raises(ValueError, match="batch_size=0"):
            function(model, EXTRACTOR, clips, np.arange(3), batch_size=0)


def test_evaluating_is_repeatable_and_leaves_training_as_it_is(trainer):
    """With patchout, drop path, mixing and masks in training."""
    settings = {"drop_path_rate": 0.3, "patchout_time_ratio": 0.3}
    plain = trainer(classifier(**settings))
    plain.train()
    watched = trainer(classifier(**settings), evaluates=True, eval_strategy="steps", eval_steps=1)
    first = watched.predict(watched.eval_dataset).predictions
    np.testing.assert_array_equal(first, watched.predict(watched.eval_dataset).predictions)
    watched.train()
    assert [entry["step"] for entry in watched.state.log_history if "eval_accuracy" in entry] == [0, 1, 2, 3, 4]
    assert changed(plain.model, watched.model) == set()


def test_metrics_are_of_the_predictions_in_order(trainer):
    made = trainer(evaluates=True, max_steps=30, learning_rate=2e-3, **PLAIN)
    made.train()
    output = made.predict(made.eval_dataset)
    hits = output.predictions.argmax(1) == LABELS[TEST]
    assert output.label_ids.tolist() == LABELS[TEST].tolist()
    assert made.evaluate()["eval_accuracy"] == pytest.approx(hits.mean())
    assert output.metrics["test_accuracy_a"] == pytest.approx(hits[LABELS[TEST] == 0].mean())
    assert output.predictions.shape == (12, 3) and np.ptp(output.predictions) > 0.1


# --- the best model


class Worsen(TrainerCallback):
    """After so many steps, weights that say one class of everything."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 40:
            with torch.no_grad():
                model.classifier.weight.zero_()
                model.classifier.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))


def test_the_best_checkpoint_is_what_is_kept(trainer, tmp_path):
    made = trainer(evaluates=True, max_steps=50, save_strategy="steps", eval_strategy="steps", save_steps=10,
                   eval_steps=10, learning_rate=1e-3, callbacks=[Worsen()], **PLAIN)  # fmt: skip
    made.train()
    accuracies = {e["step"]: e["eval_accuracy"] for e in made.state.log_history if "eval_accuracy" in e}
    assert accuracies[40] == pytest.approx(1 / 3) and max(accuracies.values()) > 0.6
    best = max(accuracies, key=lambda step: (accuracies[step], -step))
    assert best < 40 and made.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    kept = load_file(f"{made.state.best_model_checkpoint}/model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in made.model.state_dict().items())
    assert made.evaluate()["eval_accuracy"] == accuracies[best]


@pytest.mark.parametrize(
    "problem, outputs, name, greater",
    [
        ("single_label_classification", 3, "accuracy", True),
        ("multi_label_classification", 3, "mean_average_precision", True),
        ("regression", 1, "mse", False),
    ],
)
def test_the_best_goes_by_the_problem_and_there_is_none_without_evaluation(trainer, problem, outputs, name, greater):
    values = {1: LABELS.astype(np.float32), 3: LABELS}[outputs]
    values = np.eye(3, dtype=np.float32)[LABELS] if problem.startswith("multi") else values
    chosen = {"save_strategy": "epoch", "max_steps": 3, "overwrite_output_dir": True}
    made = trainer(classifier(problem, outputs), values, evaluates=True, **chosen)
    assert (made.args.metric_for_best_model, made.args.greater_is_better) == (name, greater)
    made.train()
    assert f"eval_{name}" in made.state.log_history[-2] and made.state.best_metric is not None
    asked = trainer(classifier(problem, outputs), values, evaluates=True, metric_for_best_model="loss", **chosen)
    assert (asked.args.metric_for_best_model, asked.args.greater_is_better) == ("loss", False)
    without = trainer(classifier(problem, outputs), values, **chosen)
    without.train()
    assert not without.args.load_best_model_at_end and without.state.best_metric is None


# --- balanced classes


def test_a_run_with_balanced_classes_draws_each_equally_often(trainer):
    counts = np.array([14, 7, 3])
    values = np.concatenate([np.repeat(np.arange(3), counts), LABELS[TEST]])
    seen = []
    made = trainer(values=values, class_balanced=True, max_steps=12, mixup_probability=0.0)
    collate = made.data_collator

    def record(rows):
        seen.extend(int(row["labels"]) for row in rows)
        return collate(rows)

    made.data_collator = record
    made.train()
    assert np.bincount(seen[: 4 * 24]).tolist() == [32, 32, 32]
    with pytest.raises(ValueError, match="class_balanced"):
        trainer(classifier("regression", 1), LABELS.astype(np.float32), class_balanced=True)
