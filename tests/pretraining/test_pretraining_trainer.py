"""Held-out losses are the same in whichever batches, the parts of a loss are logged, and real sound is learnt."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_sounds import EXTRACTOR, log_mels, tones

from uamix_hf import AudioMAEFeatureExtractor, DataError
from uamix_hf.data import cached_features, compute_norm_stats, load_recordings
from uamix_hf.pretraining import HeldOutCollator, PretrainingTrainer
from uamix_hf.pretraining.trainer import of_model

JOINT = {"contrastive_weight": 0.1, "norm_pix_loss": False}


@torch.no_grad()
def loss_clip_by_clip(model, rows) -> dict[str, float]:
    """Means over all removed patches, by loops over clips and patches, each clip alone."""
    errors, surprises = [], []
    model.eval()
    for row in rows:
        batch = HeldOutCollator(EXTRACTOR, model.config)([row])
        seen = {}
        hook = model.decoder.register_forward_hook(lambda *call, seen=seen: seen.update(out=call[2]))
        outputs = model(**of_model(batch))
        hook.remove()
        gone = outputs.mask[0].nonzero()[:, 0]
        patches = model.patchify(batch["input_values"])[0].double()
        if model.config.norm_pix_loss:
            patches = (patches - patches.mean(1, keepdim=True)) / (patches.var(1, keepdim=True) + 1e-6).sqrt()
        errors += [(outputs.logits[0, place].double() - patches[place]).square().mean().item() for place in gone]
        if model.config.contrastive_weight:
            matches = seen["out"][1][0].double()
            for place in gone:
                scores = torch.stack([matches[place] @ patches[other] for other in gone])
                surprises.append((scores.logsumexp(0) - matches[place] @ patches[place]).item())
    found = {"eval_loss": np.mean(errors)}
    if surprises:
        found |= {"eval_loss_reconstruction": np.mean(errors), "eval_loss_contrastive": np.mean(surprises)}
        found["eval_loss"] = np.mean(errors) + model.config.contrastive_weight * np.mean(surprises)
    return found


@pytest.mark.parametrize("settings", [{}, JOINT, {"mask_type": "time_frequency"}], ids=["plain", "joint", "2-D"])
def test_the_held_out_loss_is_the_mean_over_removed_patches_in_any_batches(make_trainer, make_model, settings) -> None:
    model = make_model(**settings)
    expected = loss_clip_by_clip(model, make_trainer(model).eval_dataset)
    for size in (1, 3, 7, 64):
        trainer = make_trainer(model, per_device_eval_batch_size=size)
        found = trainer.evaluate()
        losses = {name: value for name, value in found.items() if "loss" in name}
        assert losses == pytest.approx(expected, abs=1e-5)
        again = trainer.evaluate()
        assert {name: again[name] for name in losses} == losses  # to the last bit


def test_the_order_of_the_held_out_clips_does_not_matter(make_trainer, make_model, clips) -> None:
    model = make_model()
    order = np.random.default_rng(0).permutation(40)
    losses = [make_trainer(model, held_out=clips.select(rows)).evaluate()["eval_loss"] for rows in (range(40), order)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_evaluating_does_not_change_what_is_trained(make_trainer) -> None:
    weights = []
    for strategy in ({"eval_strategy": "no"}, {"eval_strategy": "steps", "eval_steps": 1}):
        trainer = make_trainer(max_steps=5, learning_rate=1e-3, **strategy)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_clip_alone_in_its_batch_is_seen_anew_in_each_epoch_and_for_each_seed(
    make_trainer, tmp_path, workers
) -> None:
    """And as before by a resumed run."""
    clips = log_mels(tones(2)[0])
    seen: list[list[float]] = []

    def train(**arguments):
        trainer = make_trainer(train=clips, per_device_train_batch_size=1, dataloader_num_workers=workers, **arguments)
        trainer.model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["input_values"].flatten().tolist()), with_kwargs=True
        )
        trainer.train(arguments.get("resume_from_checkpoint"))
        found = list(seen)
        seen.clear()
        return found, trainer.args.output_dir

    whole, folder = train(max_steps=6, save_strategy="steps", save_steps=3, save_total_limit=2)
    other, _ = train(max_steps=6, seed=1, output_dir=str(tmp_path / "other"))
    assert len({tuple(values) for values in whole + other}) == 12
    resumed, _ = train(max_steps=6, resume_from_checkpoint=f"{folder}/checkpoint-3")  # within an epoch
    assert resumed == whole[3:]


def test_the_parts_of_the_joint_objective_are_logged_and_make_up_the_loss(make_trainer, make_model, clips) -> None:
    train = clips.select(range(16))  # two batches, so that every step has as many
    trainer = make_trainer(make_model(**JOINT), train, max_steps=6, logging_steps=2, gradient_accumulation_steps=2)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 3
    for entry in logs:
        total = entry["loss_reconstruction"] + 0.1 * entry["loss_contrastive"]
        assert entry["loss"] == pytest.approx(total, rel=1e-3) and entry["loss_contrastive"] > 0
    plain = make_trainer(max_steps=2)
    plain.train()
    assert not any("loss_contrastive" in entry for entry in plain.state.log_history)


def test_too_few_clips_are_an_error_before_any_training(make_trainer, clips) -> None:
    with pytest.raises(DataError, match="7 clips to train on and 1 x 8 in a batch"):
        make_trainer(train=clips.select(range(7)))
    make_trainer(train=clips.select(range(8)))


def test_real_clips_that_were_held_out_are_painted_in_better_after_some_steps(
    make_args, make_model, esc10: Path, tmp_path: Path
) -> None:
    extractor = AudioMAEFeatureExtractor(max_length=96)
    recordings = load_recordings(str(esc10), where=["fold=1,2", "label=rain,rooster,crying_baby"])
    rows = cached_features(recordings, extractor, cache_dir=tmp_path / "cache").dataset
    folds = np.array(recordings["fold"])
    mean, std = compute_norm_stats(rows, extractor)
    extractor = AudioMAEFeatureExtractor(max_length=96, mean=mean, std=std)
    model = make_model(num_mel_bins=128, max_length=96, norm_pix_loss=False, position_layout="time_freq")
    train, held_out = (rows.select(np.flatnonzero(folds == fold)) for fold in ("1", "2"))
    args = make_args(max_steps=150, learning_rate=3e-3, per_device_train_batch_size=16, logging_steps=50)
    trainer = PretrainingTrainer(model, args, train, extractor, held_out)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    # Guessing the mean of each mel bin of the training clips is what has to be beaten, too.
    bins = torch.cat([extractor.normalize(row["features"]) for row in train]).mean(dim=0)
    errors = [(extractor.normalize(row["features"]) - bins).square().mean().item() for row in held_out]
    assert after < 0.5 * before and after < np.mean(errors), (before, after, np.mean(errors))
