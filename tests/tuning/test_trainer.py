"""The trainer: what the optimiser is given, what happens each step, and that a resumed run ends as if never stopped."""

import copy
import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from uamix_hf import UaMixTrainingArguments
from uamix_hf.data import FeatureCollator
from uamix_hf.embedding import load_encoder
from uamix_hf.metrics.checks import EvaluationError
from uamix_hf.training.checkpoints import last_complete_checkpoint
from uamix_hf.tuning import KNNCallback, StageTrainer, train_stages
from uamix_hf.tuning import callbacks as tuning_callbacks

LENGTHS = [96, 41, 120, 33, 80, 64, 17, 96, 250, 50, 77, 96, 31, 88]  # 14 clips: three batches of 4 in an epoch


@pytest.fixture
def run(make_model, make_dataset, make_args, extractor):
    """`run(model, stage="tune", callbacks=(), lengths=LENGTHS, labels=None, **arguments)`: a trainer that has run."""

    def run(model=None, stage="tune", callbacks=(), lengths=LENGTHS, labels=None, **arguments):
        trainer = StageTrainer(
            make_model() if model is None else model,
            make_args(**{"max_steps": 5, "head_steps": 5, "logging_steps": 1, **arguments}),
            make_dataset(lengths, labels=labels),
            extractor,
            stage,
            callbacks,
        )
        trainer.train()
        return trainer

    return run


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# --- parameter groups


@pytest.mark.parametrize("frozen, blocks", [(0, 0), (1, 1), (2, 2), (0.5, 1), (0.9, 2)])
def test_every_trainable_parameter_has_its_rate_and_decay_once(make_model, run, frozen, blocks):
    model = make_model()
    rates = {"learning_rate": 1e-3, "weight_decay": 0.05, "layer_decay": 0.65}
    heads = {"head_learning_rate": 3e-3, "head_weight_decay": 1e-4}
    trainer = run(model, freeze_blocks=frozen, max_steps=1, **rates, **heads)
    found: dict[int, tuple[float, float]] = {}
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = (group["initial_lr"], group["weight_decay"])
    for name, parameter in model.named_parameters():
        block = re.match(r"encoder\.layers\.(\d+)\.", name)
        stem = name.startswith("encoder.embeddings.")
        if name.startswith("heads.target_projector."):
            expected = None
        elif name.startswith("heads."):
            expected = (3e-3, 1e-4)
        elif blocks and (stem or (block and int(block[1]) < blocks)):
            expected = None
        else:  # of 3 blocks: the last 0.65, the first 0.65 ** 3, the stem one below, the final norm 1
            power = 4 if stem else 3 - int(block[1]) if block else 0
            expected = (1e-3 * 0.65**power, 0.05)
        if expected and (name.endswith((".bias", "cls_token")) or "norm" in name or parameter.ndim == 1):
            expected = (expected[0], 0.0)
        assert found.pop(id(parameter), None) == (expected and pytest.approx(expected)), name
    assert not found


def test_a_learnt_pooling_has_the_rate_of_the_heads(tmp_path, make_model, make_dataset, make_args, extractor):
    make_model().encoder.save_pretrained(tmp_path)
    model = make_model(encoder=load_encoder(tmp_path, pooling="attention"))
    args = make_args(learning_rate=1e-5, layer_decay=0.5, head_learning_rate=3e-3)
    groups = StageTrainer(model, args, make_dataset([64] * 8), extractor).parameter_groups()
    rates = {id(value): group["lr"] for group in groups for value in group["params"]}
    assert rates[id(model.encoder.attention_pooling.weight)] == 3e-3
    assert max(rates[id(value)] for value in model.encoder.layers.parameters()) <= 1e-5


def test_prefix_tokens_and_learnt_positions_do_not_decay(make_ast, make_model, make_dataset, make_args, extractor):
    model = make_model(encoder=make_ast())
    trainer = StageTrainer(model, make_args(weight_decay=0.1), make_dataset([64] * 8), extractor)
    decays = {id(value): group["weight_decay"] for group in trainer.parameter_groups() for value in group["params"]}
    embeddings = model.encoder.embeddings
    for parameter in (embeddings.cls_token, embeddings.distillation_token, embeddings.position_embeddings):
        assert decays[id(parameter)] == 0
    assert decays[id(embeddings.patch_embeddings.projection.weight)] == 0.1


def test_the_head_stage_has_the_heads_alone_in_a_folder_of_its_own(make_model, run, tmp_path):
    model = make_model()
    before = copy.deepcopy(model)
    trainer = run(model, "head", head_learning_rate=2e-3, head_steps=3, save_strategy="steps", save_steps=3)
    assert trainer.state.global_step == 3
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {2e-3}
    given = {id(value) for group in trainer.optimizer.param_groups for value in group["params"]}
    assert given == {
        id(value) for part in (model.heads.projector, model.heads.predictor) for value in part.parameters()
    }
    for name, value in model.encoder.named_parameters():
        assert torch.equal(value, before.encoder.get_parameter(name)), name
    assert not torch.equal(model.heads.projector[0].weight, before.heads.projector[0].weight)
    assert (tmp_path / "run" / "head" / "checkpoint-3").is_dir()
    assert not list((tmp_path / "run").glob("checkpoint-*"))


# --- steps


class Recorder(TrainerCallback):
    """Projector and target after each step."""

    def __init__(self):
        self.projectors: list[list[torch.Tensor]] = []
        self.targets: list[list[torch.Tensor]] = []

    def record(self, model) -> None:
        self.projectors.append([value.detach().clone() for value in model.heads.projector.parameters()])
        self.targets.append([value.detach().clone() for value in model.heads.target_projector.parameters()])

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.record(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.record(model)


@pytest.mark.parametrize("stage, momentum", [("tune", 0.7), ("head", 0.0)])
def test_the_target_moves_once_after_each_optimiser_step(make_model, run, stage, momentum):
    recorder = Recorder()
    run(make_model(ema_momentum=0.7), stage, [recorder], head_learning_rate=1e-2, warmup_steps=0)
    assert len(recorder.targets) == 6
    for step in range(1, 6):
        for old, online, new in zip(
            recorder.targets[step - 1], recorder.projectors[step], recorder.targets[step], strict=True
        ):
            torch.testing.assert_close(new, momentum * old + (1 - momentum) * online, atol=1e-7, rtol=1e-6)
        moved = [
            torch.equal(a, b) for a, b in zip(recorder.projectors[step - 1], recorder.projectors[step], strict=True)
        ]
        assert not all(moved)


@pytest.mark.parametrize("stage", ["tune", "head"])
def test_the_log_has_the_means_of_the_losss_parts(make_model, run, stage):
    model, outputs = make_model(), []
    model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    trainer = run(model, stage, labels=[i % 3 for i in range(14)], max_steps=6, head_steps=6, logging_steps=3)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in entries] == [3, 6] and len(outputs) == 6
    names = ["loss_clean", "embedding_std"] + (["loss_mixed", "mix_lambda"] if stage == "tune" else [])
    for entry, steps in zip(entries, (outputs[:3], outputs[3:]), strict=True):
        for name in ["loss", *names]:
            expected = np.mean([float(output[name].detach()) for output in steps])
            assert entry[name] == pytest.approx(expected, rel=1e-4), name
        purities = [float(output.neighbour_purity) for output in steps]
        assert entry["neighbour_purity"] == pytest.approx(np.nanmean(purities), rel=1e-6)
        assert set(entry) & {"loss_mixed", "mix_lambda"} == set(names) & {"loss_mixed", "mix_lambda"}
    assert np.isnan(float(outputs[0].neighbour_purity))  # nothing was known yet, which the mean leaves out


def test_batches_hold_clips_of_similar_length_each_once_an_epoch(make_model, run):
    model, batches = make_model(), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(kwargs["sample_id"].tolist()), with_kwargs=True
    )
    run(model, max_steps=6)
    for epoch in (batches[:3], batches[3:]):
        seen = sum(epoch, [])
        assert len(seen) == 12 == len(set(seen))  # the short batch at the end is left out
        ranks = [sorted(sorted(LENGTHS).index(LENGTHS[i]) for i in batch) for batch in epoch]
        assert all(batch[-1] - batch[0] <= 5 for batch in ranks)
    assert batches[:3] != batches[3:]


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(make_model, run):
    one, two, other = (losses(run(make_model(topk=2), seed=seed)) for seed in (1, 1, 2))
    assert len(one) == 5 and one == two
    assert one != other


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # renamed in later versions
def test_gradient_checkpointing_gives_the_same_run(make_model, run):
    assert losses(run(make_model())) == losses(run(make_model(), gradient_checkpointing=True))


# --- sizes


def test_few_clips_shrink_the_batch_and_the_neighbour_queue_with_a_warning(make_model, run, caplog):
    model, sizes = make_model(queue_size=12), []
    model.register_forward_hook(
        lambda module, args, kwargs, output: sizes.append(len(kwargs["sample_id"])), with_kwargs=True
    )
    with caplog.at_level(logging.WARNING):
        trainer = run(model, lengths=LENGTHS[:5], per_device_train_batch_size=64, max_steps=2)
    assert sizes == [5, 5] and trainer.args.per_device_train_batch_size == 5
    assert any("5 clips" in record.message and "64" in record.message for record in caplog.records)
    assert len(model.neighbour_queue) == model.config.queue_size == 5
    assert sorted(model.neighbour_queue.ids.tolist()) == list(range(5))


def test_the_neighbour_queue_is_not_larger_than_the_data_nor_made_larger(make_model, run):
    for size, expected in ((100, 14), (14, 14), (6, 6), (0, 0)):
        model = make_model(queue_size=size)
        trainer = run(model, max_steps=1)
        assert len(model.neighbour_queue) == model.config.queue_size == expected
        assert trainer.args.per_device_train_batch_size == 4
        assert model.neighbour_queue.keys.shape == (expected, 16)


@pytest.mark.parametrize("given, seconds, settled", [(None, 3599, 0), (None, 3600, 0.5), (0.25, 3599, 0.25)])
def test_tokens_are_dropped_where_there_is_an_hour_of_sound(
    make_model, make_args, make_dataset, extractor, given, seconds, settled
):
    model = make_model(token_drop=given)
    frames = [100 * second for second in (seconds - 9, 4, 5)]
    dataset = make_dataset([96] * 3).remove_columns("length").add_column("length", frames)
    StageTrainer(model, make_args(per_device_train_batch_size=2), dataset, extractor)
    assert model.config.token_drop == settled


def test_one_clip_is_refused_before_training(make_model, make_args, make_dataset, extractor):
    with pytest.raises(ValueError, match="1 clips for 1 processes"):
        StageTrainer(make_model(), make_args(), make_dataset([96]), extractor)


def test_gradient_accumulation_is_refused_with_the_reason(make_args):
    with pytest.raises(ValueError, match="per_device_train_batch_size"):
        make_args(gradient_accumulation_steps=2)


@pytest.mark.parametrize(
    "wrong", [{"layer_decay": 0}, {"layer_decay": 1.1}, {"freeze_blocks": -1}, {"freeze_blocks": 1.5}]
)
def test_unusable_arguments_are_refused_by_name(make_args, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_args(**wrong)


def test_a_model_that_cannot_be_trained_so_stays_as_it_was(make_model, make_dataset, make_args, extractor):
    """More blocks frozen than there are, or callbacks that are none: the next trainer meets the model as it was."""
    model, data = make_model(queue_size=40, token_drop=None), make_dataset(LENGTHS)
    before, trained = model.config.to_dict(), [value.requires_grad for value in model.parameters()]
    for arguments, data_given in (({"freeze_blocks": 7}, data), ({}, data.remove_columns("length"))):
        with pytest.raises((ValueError, KeyError)):
            StageTrainer(model, make_args(**arguments), data_given, extractor, "head" if not arguments else "tune")
        assert model.config.to_dict() | {"use_cache": None} == before | {"use_cache": None}
        assert [value.requires_grad for value in model.parameters()] == trained
        assert len(model.neighbour_queue) == 40 and model.stage == "tune"
    StageTrainer(model, make_args(freeze_blocks=1), data, extractor)
    assert model.config.token_drop == 0.0 and len(model.neighbour_queue) == model.config.queue_size == 14


# --- neighbours of labelled clips


def test_neighbours_are_looked_for_among_embeddings_as_users_get(make_model, make_dataset, run, extractor, monkeypatch):
    """At the start, every `knn_steps` and at the end; without augmentation, and the training goes on untouched."""
    labels, seen = [i % 3 for i in range(14)], []

    def spy(vectors, labels, groups, neighbours, names):
        seen.append((vectors, labels.tolist(), groups, neighbours))
        return 0.25

    monkeypatch.setattr(tuning_callbacks, "leave_one_out_knn", spy)
    groups = np.arange(14) // 2
    data = make_dataset(LENGTHS, labels=labels)
    callback = KNNCallback(data, FeatureCollator(extractor, 96, normalize=True), groups, neighbours=4, batch_size=5)
    model = make_model()
    trainer = run(model, "tune", [callback], labels=labels, max_steps=5, knn_steps=2, warmup_steps=0)
    checks = [entry for entry in trainer.state.log_history if "knn_accuracy" in entry]
    assert {entry["knn_neighbours"] for entry in checks} == {3}  # a class has four clips
    assert [(entry["step"], entry["knn_accuracy"]) for entry in checks] == [(s, 0.25) for s in (0, 2, 4, 5)]
    assert all(entry[1:] == (labels, groups, 3) for entry in seen)
    assert model.training
    assert losses(trainer) == losses(run(make_model(), labels=labels, max_steps=5, warmup_steps=0))

    model.eval()
    vectors = seen[-1][0]
    for row, length in enumerate(LENGTHS):
        if length <= 96:
            mel = extractor.normalize(data[row]["features"].float())
            missing = -length % 16
            mel = torch.nn.functional.pad(mel, (0, 0, 0, missing), value=extractor.padding_value)
            mask = (torch.arange(length + missing) < length).long()
            with torch.no_grad():
                alone = model.encoder(mel[None], attention_mask=mask[None]).pooler_output[0]
            torch.testing.assert_close(torch.from_numpy(vectors[row]), alone, atol=1e-4, rtol=1e-4)


def test_labels_whose_neighbours_tell_nothing_are_refused_before_training(make_dataset, extractor):
    collator = FeatureCollator(extractor, 96, normalize=True)
    for labels in ([0] * 14, list(range(14)), [-1] * 14):
        with pytest.raises(EvaluationError):
            KNNCallback(make_dataset(LENGTHS, labels=labels), collator)
    with pytest.raises(ValueError, match="normalize=True"):
        KNNCallback(make_dataset(LENGTHS, labels=[0, 1] * 7), FeatureCollator(extractor, 96, normalize=False))


def test_clips_without_a_label_are_no_class_of_the_check(make_model, make_dataset, run, extractor):
    """With them the accuracy is that of the labelled clips by themselves."""
    labels = [i % 2 if i % 3 else -1 for i in range(14)]
    data, model = make_dataset(LENGTHS, labels=labels), make_model()
    collator = FeatureCollator(extractor, 96, normalize=True)
    callback = KNNCallback(data, collator, neighbours=3)
    known = [row for row in range(14) if labels[row] >= 0]
    alone = KNNCallback(data.select(known), collator, neighbours=3)
    assert callback.neighbours == alone.neighbours == 3
    assert callback.accuracy(model) == alone.accuracy(model)


# --- resuming

# Stage 1 ends within an epoch (three steps each), as stage 2 does not.
STAGES = {"head_steps": 4, "max_steps": 6, "save_strategy": "steps", "save_steps": 1, "logging_steps": 1}
METHOD = {"token_drop": 0.5, "mix": "t-cutmix", "topk": 3, "queue_size": 9, "ema_momentum": 0.9}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Path:
    """Folder of a run that was never stopped; filled by the first test that needs it."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def stages(make_model, make_dataset, extractor, whole_run):
    """`stages(folder, seed=0, **arguments)`: both stages, into `folder`, on a model whose weights are of `seed`."""

    def stages(folder: Path, seed: int = 0, **arguments):
        fixed = {"output_dir": str(folder), "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 4}
        fixed["recipe"] = "plastic"
        args = UaMixTrainingArguments(**{**fixed, **STAGES, **arguments})
        return train_stages(make_model(seed, **METHOD), args, make_dataset(LENGTHS), extractor)

    if not (whole_run / "checkpoint-6").is_dir():
        stages(whole_run)
    return stages


def copy_run(source: Path, target: Path, head: int, tune: int) -> None:
    """What is on the disk after so many steps of both stages."""
    for part, steps in (("head", head), (".", tune)):
        for step in range(1, steps + 1):
            shutil.copytree(source / part / f"checkpoint-{step}", target / part / f"checkpoint-{step}")


def assert_same_end(one: Path, two: Path) -> None:
    """Weights, target, neighbour queue, optimiser and schedule of the last checkpoints, bit by bit."""
    mine, its = (load_file(folder / "checkpoint-6" / "model.safetensors") for folder in (one, two))
    assert mine.keys() == its.keys()
    for part in ("encoder.", "heads.target_projector.", "neighbour_queue.keys", "neighbour_queue.pointer"):
        assert any(name.startswith(part) for name in mine)
    for name, value in mine.items():
        assert torch.equal(value, its[name]), name
    mine, its = (torch.load(folder / "checkpoint-6" / "optimizer.pt", weights_only=True) for folder in (one, two))
    assert mine["param_groups"] == its["param_groups"]
    assert mine["state"].keys() == its["state"].keys() and len(mine["state"]) > 40
    for number, state in mine["state"].items():
        for name, value in state.items():
            assert torch.equal(value, its["state"][number][name]), (number, name)
    logs = [
        json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())["log_history"] for folder in (one, two)
    ]
    series = [[(entry["step"], entry["loss"], entry["mix_lambda"]) for entry in log if "loss" in entry] for log in logs]
    assert series[0] == series[1] and len(series[0]) == 6


@pytest.mark.parametrize(
    "head, tune",
    [
        pytest.param(2, 0, id="within an epoch of stage 1"),
        pytest.param(3, 0, id="between epochs of stage 1"),
        pytest.param(4, 0, id="between the stages"),
        pytest.param(4, 2, id="within an epoch of stage 2"),
        pytest.param(4, 3, id="between epochs of stage 2"),
    ],
)
@pytest.mark.parametrize("how", ["true", "path"])
def test_a_resumed_run_equals_one_that_never_stopped(stages, whole_run, tmp_path, head, tune, how):
    """The weights that it starts from are others, so all that counts must come from the checkpoint."""
    copy_run(whole_run, tmp_path, head, tune)
    last = f"checkpoint-{tune}" if tune else f"head/checkpoint-{head}"
    resume = "true" if how == "true" else str(tmp_path / last)
    trainer = stages(tmp_path, seed=1, resume_from_checkpoint=resume)
    assert trainer.state.global_step == 6
    assert_same_end(tmp_path, whole_run)


def test_a_checkpoint_of_stage_1_may_lie_in_another_folder(stages, whole_run, tmp_path):
    stages(tmp_path, seed=1, resume_from_checkpoint=str(whole_run / "head" / "checkpoint-3"))
    assert_same_end(tmp_path, whole_run)


def test_a_folder_that_is_called_head_may_hold_both_stages(stages, whole_run, tmp_path):
    folder = tmp_path / "head"
    copy_run(whole_run, folder, 4, 2)
    stages(folder, seed=1, resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert_same_end(folder, whole_run)


def test_a_finished_run_goes_on_when_more_is_asked_for(stages, whole_run, tmp_path):
    copy_run(whole_run, tmp_path, 4, 6)
    for more, steps in (({"max_steps": -1, "num_train_epochs": 3}, 9), ({"max_steps": 10}, 10)):
        trainer = stages(tmp_path, seed=1, resume_from_checkpoint="true", **more)
        assert trainer.state.global_step == steps
        assert (tmp_path / f"checkpoint-{steps}").is_dir()


def test_resuming_a_finished_run_changes_nothing(stages, whole_run, tmp_path):
    """Six steps end an epoch; five do not."""
    copy_run(whole_run, tmp_path, 4, 6)
    for steps in (6, 5):
        if steps == 5:
            shutil.rmtree(tmp_path / "checkpoint-6")
        trainer = stages(tmp_path, seed=1, max_steps=steps, resume_from_checkpoint="true")
        assert trainer.state.global_step == steps
        expected = load_file(whole_run / f"checkpoint-{steps}" / "model.safetensors")
        for name, value in trainer.model.state_dict().items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    "missing", ["optimizer.pt", "scheduler.pt", "trainer_state.json", "model.safetensors", "rng_state.pth"]
)
def test_an_incomplete_newest_checkpoint_is_passed_over(stages, whole_run, tmp_path, caplog, missing):
    copy_run(whole_run, tmp_path, 4, 3)
    (tmp_path / "checkpoint-3" / missing).unlink()
    with caplog.at_level(logging.WARNING):
        assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert any(
        "checkpoint-3" in record.message and missing.split(".")[0] in record.message for record in caplog.records
    )
    if missing == "optimizer.pt":
        stages(tmp_path, seed=1, resume_from_checkpoint="true")
        assert_same_end(tmp_path, whole_run)


def test_the_newest_checkpoint_is_the_one_of_the_highest_step(stages, whole_run, tmp_path):
    for step in (9, 10, 2):
        shutil.copytree(whole_run / "checkpoint-2", tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-old").mkdir()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert last_complete_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize("resume", ["true", False, None])
def test_without_a_checkpoint_a_run_starts_afresh(stages, whole_run, tmp_path, caplog, resume):
    with caplog.at_level(logging.WARNING):
        stages(tmp_path, resume_from_checkpoint=resume)
    assert_same_end(tmp_path, whole_run)
    assert any("no complete checkpoint" in record.message for record in caplog.records) == (resume == "true")


def test_stage_1_can_be_left_out(make_model, make_dataset, make_args, extractor, tmp_path):
    for nothing in ({"head_epochs": 0}, {"head_steps": 0}):
        trainer = train_stages(make_model(), make_args(max_steps=1, **nothing), make_dataset(LENGTHS), extractor)
        assert trainer.state.global_step == 1 and trainer.model.stage == "tune"
    assert not (tmp_path / "run" / "head").exists()
