"""Guards: what they measure, which encoder they keep, that they disturb nothing, and that a resumed run is the same."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from all_encoders import short_encoder
from safetensors.torch import load_file
from torch.nn.functional import normalize
from toy_sounds import log_mels, tones
from transformers import TrainerCallback

from uamix_hf import RunCheckpointError, UaMixForContrastiveTuning
from uamix_hf.tuning import StageTrainer, callbacks, guards, train_stages
from uamix_hf.tuning.guard_clips import guard_rows, make_guard
from uamix_hf.tuning.guards import FILE, GuardMeasures

LENGTHS = [96, 41, 120, 33, 80, 64, 17, 96, 250, 50, 77, 96, 31, 88]
STEPS = {"head_steps": 2, "max_steps": 6, "guard_steps": 1, "warmup_steps": 0, "logging_steps": 1}
LOGGED = {"guard_embedding_std", "guard_effective_rank", "guard_neighbours", "guard_alignment"}


class Collapse(TrainerCallback):
    """From one step on, one embedding for everything, until another step; and the weights after each step."""

    def __init__(self, first: int, last: int = 99):
        self.first, self.last = first, last
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if model.stage == "head":
            return
        with torch.no_grad():
            if state.global_step == self.first:
                model.encoder.layernorm.weight.zero_()
            if state.global_step == self.last:
                model.encoder.layernorm.weight.fill_(1)
        self.weights[state.global_step] = copied(model.encoder)


def copied(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in encoder.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def logged(trainer) -> list[dict[str, Any]]:
    return [entry for entry in trainer.state.log_history if LOGGED <= set(entry)]


@pytest.fixture
def run(make_model, make_dataset, make_args, extractor):
    """`run(model=None, callbacks=(), **arguments)`: a trainer of both stages that has run."""

    def run(model=None, callbacks=(), **arguments):
        args = make_args(**{**STEPS, "learning_rate": 1e-4, **arguments})
        return train_stages(model or make_model(), args, make_dataset(LENGTHS), extractor, callbacks)

    return run


# --- what is measured


def test_measures_are_those_of_the_embeddings_and_views(make_model, make_dataset, make_args, extractor) -> None:
    model, args = make_model(), make_args(guard="warn", per_device_train_batch_size=16)
    _, guard = make_guard(model, args, make_dataset(LENGTHS), extractor)
    clips, one, other = guard.embed(model)
    found, neighbours = guard.measure(model)
    batch = guard.loader.collate_fn(list(guard.loader.dataset))
    with torch.no_grad():
        values = model.eval().normalize(batch["input_values"])
        expected, _ = model.adapter.encode(
            values, batch["attention_mask"].sum(1), 0.0, model.normalize(torch.zeros(()))
        )
    torch.testing.assert_close(torch.from_numpy(clips), expected, atol=1e-5, rtol=1e-4)
    assert found.embedding_std == pytest.approx(model.spread(expected).item(), rel=1e-3)
    units = [normalize(torch.from_numpy(part), dim=1) for part in (one, other)]
    assert found.alignment == pytest.approx((units[0] - units[1]).square().sum(1).mean().item(), rel=1e-4)
    assert 0 < found.alignment < 4 and not np.allclose(one, other)
    assert neighbours.shape == (14, 1) and found.neighbours == 1  # the untuned encoder itself
    for first, second in zip(guard.embed(model), (clips, one, other), strict=True):
        assert np.array_equal(first, second)  # the same views each time


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2", "ast", "beats"])
def test_every_kind_of_encoder_is_measured(make_args, kind: str) -> None:
    encoder, front_end = short_encoder(kind)
    heads = {"projector_hidden_size": 24, "projection_size": 16, "predictor_hidden_size": 32, "queue_size": 8}
    model = UaMixForContrastiveTuning.from_encoder(encoder, **heads)
    _, guard = make_guard(model, make_args(guard="stop"), log_mels(tones(12)[0], front_end), front_end)
    found, _ = guard.measure(model)
    assert found.embedding_std > 0 and 1 < found.effective_rank < 11.001 and 0 < found.alignment < 4


@pytest.mark.parametrize(
    "changed, words",
    [
        ({}, []),
        ({"embedding_std": 0.49}, ["collapse to a point"]),
        ({"effective_rank": 4.9}, ["few dimensions"]),
        ({"neighbours": 0.49}, ["only 49% of the nearest neighbours"]),
        ({"alignment": 4.0}, []),
        ({"alignment": float("nan")}, ["not finite"]),
        ({"embedding_std": 0.1, "effective_rank": 1.0, "neighbours": 0.0}, ["point", "few", "only 0%"]),
    ],
)
def test_guards_fail_below_their_thresholds(changed, words) -> None:
    untuned = GuardMeasures(1.0, 10.0, 1.0, 0.5)
    failures = GuardMeasures(**{**vars(untuned), **changed}).failures(untuned)
    assert len(failures) == len(words) and all(word in text for word, text in zip(words, failures, strict=True))


# --- which clips


def test_as_many_clips_are_held_out_as_are_sensible() -> None:
    count = {clips: len(guard_rows(clips, None, 0.1, 0)) for clips in (2, 127, 128, 1000, 100_000)}
    assert count == {2: 0, 127: 0, 128: 32, 1000: 100, 100_000: 256}
    assert len(guard_rows(100, None, 0.5, 0)) == 50
    assert not np.array_equal(guard_rows(1000, None, 0.1, 0), guard_rows(1000, None, 0.1, 1))


def test_groups_are_held_out_whole_or_not_at_all() -> None:
    groups = np.array([f"speaker {number}" for number in np.random.default_rng(0).integers(0, 40, 500)])
    held = np.isin(np.arange(500), guard_rows(500, groups, 0.1, 0))
    assert 50 <= held.sum() <= 75 and not set(groups[held]) & set(groups[~held])
    assert len(guard_rows(500, np.repeat([0, 1], 250), 0.1, 0)) == 0


def test_held_out_clips_are_not_tuned_on(make_model, make_dataset, make_args, extractor, caplog) -> None:
    model, seen = make_model(), set()
    forward = model.forward
    model.forward = lambda *args, **inputs: (seen.update(inputs["sample_id"].tolist()), forward(*args, **inputs))[1]
    args = make_args(guard="warn", per_device_train_batch_size=48, head_steps=0, max_steps=2, learning_rate=0.0)
    trainer = train_stages(model, args, make_dataset([17] * 128), extractor)
    held = {row["sample_id"].item() for row in trainer.guard.loader.dataset}
    assert len(held) == 32 and seen == set(range(128)) - held
    assert not any("tuned on as well" in record.message for record in caplog.records)


def test_of_few_clips_none_is_held_out_and_the_warning_says_so(run, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        trainer = run(guard="warn")
    assert len(trainer.train_dataset) == len(trainer.guard.loader.dataset) == 14
    assert any("14 clips are too few" in record.message for record in caplog.records)


# --- what becomes of the encoder


def test_guards_that_hold_change_nothing(make_model, run, monkeypatch) -> None:
    for name in ("LEAST_STD", "LEAST_RANK", "LEAST_AGREEMENT"):
        monkeypatch.setattr(guards, name, 0.0)
    plain, guarded = make_model(), make_model()
    run(plain, guard="off", guard_steps=0)
    trainer = run(guarded, guard="stop")
    assert same(plain.state_dict(), guarded.state_dict())
    assert [entry["step"] for entry in logged(trainer)] == [0, 1, 2, 3, 4, 5, 6, 6]
    assert logged(trainer)[0]["guard_neighbours"] == 1 and logged(trainer)[-1]["guard_step"] == 6
    losses = [entry["step"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == [1, 2, 3, 4, 5, 6]  # its log does not stand in for the steps' own


@pytest.mark.parametrize("guard, last", [("stop", 3), ("warn", 6)])
def test_a_collapse_is_seen_and_the_last_encoder_that_passed_is_the_result(
    make_model, run, caplog, guard: str, last: int
) -> None:
    model, collapse = make_model(), Collapse(3)
    with caplog.at_level(logging.WARNING):
        trainer = run(model, [collapse], guard=guard)
    assert trainer.state.global_step == last
    assert same(copied(model.encoder), collapse.weights[2])
    assert not same(collapse.weights[1], collapse.weights[2])
    text = caplog.text
    assert "Guards failed after step 3: the embeddings collapse to a point (embedding_std " in text
    assert "The encoder of step 2, the last that passed, is kept" in text
    assert "The result is the encoder of step 2" in text
    kept, result = logged(trainer)[2], logged(trainer)[-1]
    assert kept["step"] == result["guard_step"] == 2 and result["step"] == last
    assert all(result[name] == kept[name] for name in LOGGED)


def test_an_encoder_that_recovers_is_the_result_unless_the_run_stops(make_model, run) -> None:
    model, collapse = make_model(), Collapse(2, 5)
    trainer = run(model, [collapse], guard="warn")
    assert same(copied(model.encoder), collapse.weights[6]) and logged(trainer)[-1]["guard_step"] == 6


def test_without_any_encoder_that_passed_the_result_is_the_untuned_one(make_model, run, caplog) -> None:
    model = make_model()
    before = copied(model.encoder)
    with caplog.at_level(logging.WARNING):
        run(model, [Collapse(1)], guard="stop")
    assert same(copied(model.encoder), before) and "The result is the untuned encoder" in caplog.text


def test_the_end_is_checked_also_where_another_callback_stops(make_model, run) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            control.should_training_stop = model.stage == "tune" and state.global_step == 4

    trainer = run(callbacks=[Stop()], guard="warn", guard_steps=3)
    assert [entry["step"] for entry in logged(trainer)] == [0, 3, 4, 4]


def test_five_checks_by_default(run) -> None:
    assert [entry["step"] for entry in logged(run(guard="warn", guard_steps=0, max_steps=11, head_steps=0))] == [
        0, 2, 4, 6, 8, 10, 11, 11,
    ]  # fmt: skip


def test_guards_without_their_callback_are_refused_or_named(
    make_model, make_dataset, make_args, extractor, caplog
) -> None:
    with pytest.raises(ValueError, match="guard=stop: add a GuardCallback"):
        StageTrainer(make_model(), make_args(guard="stop"), make_dataset(LENGTHS), extractor)
    for recipe, named in (("plastic", False), ("gentle", True)):
        caplog.clear()
        StageTrainer(make_model(), make_args(recipe=recipe), make_dataset(LENGTHS), extractor)
        assert ("guards are left out. guard=stop: add a GuardCallback" in caplog.text) == named


@pytest.mark.parametrize(("rate", "named"), [(1e-9, True), (3e-3, False)])
def test_tuning_that_changes_next_to_nothing_is_named(run, caplog, rate: float, named: bool) -> None:
    with caplog.at_level(logging.WARNING):
        run(learning_rate=rate, guard="stop", max_steps=6)
    assert ("hardly changed the encoder, which keeps 100.0 % of its nearest neighbours" in caplog.text) == named


def test_interpolated_weights_at_which_guards_fail_are_named(make_model, run, caplog) -> None:
    """Between two encoders that pass there may be one that does not: here all of its embeddings are the same."""
    model = make_model()
    trainer = run(model, guard="warn", max_steps=1)
    trainer.guard.measure_interpolated(model, trainer.state)
    assert "interpolated" not in caplog.text
    with torch.no_grad():
        model.encoder.layernorm.weight.zero_()
    trainer.guard.measure_interpolated(model, trainer.state)
    assert "Guards fail on the interpolated weights" in caplog.text and "collapse to a point" in caplog.text
    first, second = logged(trainer)[-2:]
    assert first["guard_embedding_std"] > 0.1 > second["guard_embedding_std"]


@pytest.mark.parametrize(
    "recipe, arguments, updates",
    [
        ("gentle", {"max_steps": -1}, "Only 5 updates"),  # of 14 clips, in batches of 14
        ("gentle", {"max_steps": -1, "num_train_epochs": 6}, None),
        ("gentle", {"max_steps": 2}, None),  # the user's own number
        ("plastic", {"max_steps": -1, "num_train_epochs": 2}, None),
    ],
)
def test_few_gentle_updates_are_named(run, caplog, monkeypatch, recipe: str, arguments, updates) -> None:
    monkeypatch.setattr(callbacks, "FEW_UPDATES", 6)
    given = {"recipe": recipe, "per_device_train_batch_size": 64, "guard": "off", "guard_steps": 0, **arguments}
    run(head_steps=1, **given)
    assert caplog.text.count("updates of the encoder, at gentle's small learning rate") == (updates is not None)
    assert updates is None or updates in caplog.text


# --- resuming

SAVED = {"save_strategy": "steps", "save_steps": 1, "guard": "warn"}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Path:
    """Folder of a run whose encoder collapsed at step 3; filled by the first test that needs it."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def collapsing(make_model, run, whole_run):
    """`collapsing(folder, seed=0, **arguments)`: such a run, on a model whose weights are of `seed`."""

    def collapsing(folder: Path, seed: int = 0, **arguments):
        given = {**SAVED, "output_dir": str(folder), **arguments}
        return run(make_model(seed), [Collapse(3)], **given)

    if not (whole_run / "checkpoint-6").is_dir():
        trainer = collapsing(whole_run)
        torch.save([copied(trainer.model.encoder), logged(trainer)], whole_run / "expected.pt")
    return collapsing


@pytest.mark.parametrize("place", ["head/checkpoint-1", "head/checkpoint-2", "checkpoint-1", "checkpoint-2",
                                   "checkpoint-4", "checkpoint-6"])  # fmt: skip
def test_a_resumed_run_has_the_same_result(collapsing, whole_run, tmp_path, place: str) -> None:
    """The weights that it starts from are others, so all that counts must come from the checkpoint."""
    shutil.copytree(whole_run / place, tmp_path / place)
    trainer = collapsing(tmp_path, seed=1, resume_from_checkpoint=str(tmp_path / place))
    weights, log = torch.load(whole_run / "expected.pt", weights_only=False)
    assert same(copied(trainer.model.encoder), weights)
    assert logged(trainer) == log


def test_a_run_that_guards_stopped_is_over(collapsing, tmp_path) -> None:
    first = collapsing(tmp_path, guard="stop")
    assert first.state.global_step == 3
    again = collapsing(tmp_path, seed=1, guard="stop", resume_from_checkpoint="true")
    assert again.state.global_step == 3 and logged(again) == logged(first)
    assert same(copied(again.model.encoder), copied(first.model.encoder))


def test_a_checkpoint_holds_kept_weights_where_they_are_not_its_own(collapsing, whole_run) -> None:
    for step, kept in ((2, False), (3, True)):
        names = load_file(whole_run / f"checkpoint-{step}" / FILE)
        assert any(name.startswith("kept.layers.") for name in names) == kept and "neighbours" in names


def test_a_checkpoint_of_a_run_without_guards_is_refused(collapsing, whole_run, tmp_path) -> None:
    shutil.copytree(whole_run / "checkpoint-2", tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / FILE).unlink()
    with pytest.raises(RunCheckpointError, match="was saved without guards.*--guard off"):
        collapsing(tmp_path, resume_from_checkpoint="true")


def test_lora_is_kept_and_restored(make_model, run, encoder_config) -> None:
    from peft import LoraConfig, get_peft_model

    from uamix_hf import AudioMAEModel

    torch.manual_seed(0)
    encoder = get_peft_model(AudioMAEModel(encoder_config), LoraConfig(r=2, target_modules=["q_proj"]))
    model = make_model(encoder=encoder)

    class Destroy(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            self.before = copied(model.encoder) if state.global_step < 3 else self.before
            if model.stage == "tune" and state.global_step == 3:
                for name, value in model.encoder.named_parameters():
                    value.data += float("nan") if "lora_B" in name else 0

    destroy = Destroy()
    run(model, [destroy], guard="stop", learning_rate=1e-2)
    assert same(copied(model.encoder), destroy.before)
    assert any("lora_B" in name and value.any() for name, value in destroy.before.items())
