"""The learning rate follows the batch unless it is given; the schedule is that of the recipe."""

import dataclasses
import math

import pytest
import torch


@pytest.mark.parametrize("batch, accumulation", [(256, 1), (32, 1), (8, 4), (64, 16)])
def test_the_learning_rate_is_proportional_to_the_clips_of_a_step(make_args, batch: int, accumulation: int) -> None:
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    args = make_args(**sizes)
    assert args.clips_per_step == batch * accumulation
    assert args.learning_rate == pytest.approx(2e-4 * batch * accumulation / 256)
    assert make_args(**sizes, base_learning_rate=1e-3).learning_rate == pytest.approx(5 * args.learning_rate)


def test_a_given_learning_rate_wins_and_stays(make_args) -> None:
    args = make_args(learning_rate=3e-3, base_learning_rate=1.0)
    assert args.learning_rate == 3e-3
    assert make_args(learning_rate=0.0).learning_rate == 0.0
    assert dataclasses.replace(args, per_device_train_batch_size=2).learning_rate == 3e-3
    assert make_args().to_dict()["learning_rate"] == pytest.approx(2e-4 * 8 / 256)


def test_the_recipe_is_audio_maes(make_args) -> None:
    args = make_args()
    assert (args.adam_beta1, args.adam_beta2, args.weight_decay, args.max_grad_norm) == (0.9, 0.95, 1e-4, 0.0)
    assert args.num_train_epochs == 33 and args.warmup_steps * 33 == pytest.approx(3)


def test_learning_rates_rise_in_a_line_and_fall_in_half_a_cosine_to_nothing(make_trainer) -> None:
    steps, warm, peak = 66, 6, 0.01
    trainer = make_trainer(learning_rate=peak, max_steps=steps, logging_steps=1, eval_strategy="no")
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    expected = [
        peak * (step / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))))
        for step in range(steps)
    ]
    assert rates == pytest.approx(expected, abs=1e-12)
    assert trainer.lr_scheduler.get_last_lr() == pytest.approx([0.0, 0.0], abs=1e-12)


def test_every_parameter_is_optimised_once_and_only_matrices_decay(make_trainer, make_model) -> None:
    settings = {"decoder_type": "local", "decoder_window_size": 2, "contrastive_weight": 0.1}
    model = make_model(**settings)
    optimizer = make_trainer(model).create_optimizer()
    groups = [(group["weight_decay"], {id(value) for value in group["params"]}) for group in optimizer.param_groups]
    assert sorted(decay for decay, _ in groups) == [0.0, 1e-4]
    decayed, spared = (next(part for decay, part in groups if decay == value) for value in (1e-4, 0.0))
    everything = dict(model.named_parameters())
    assert not decayed & spared and decayed | spared == {id(value) for value in everything.values()}
    names = {name for name, value in everything.items() if id(value) in decayed}
    linear = {
        f"{name}.weight" for name, part in model.named_modules() if isinstance(part, (torch.nn.Linear, torch.nn.Conv2d))
    }
    assert names == linear
    for name in ("audio_mae.embeddings.cls_token", "decoder.mask_token", "decoder.layers.0.attention.tau"):
        assert id(everything[name]) in spared
    assert not any("position" in name for name in everything)  # tables are buffers
    assert optimizer.defaults["betas"] == (0.9, 0.95)
