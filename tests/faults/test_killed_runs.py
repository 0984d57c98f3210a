"""Processes killed by SIGKILL, within a step and within a save: the next one ends as if there had been one only."""

import shutil
from functools import partial

import pytest
from planted_faults import kill_in_save, kill_in_step

RESUME = ("--resume_from_checkpoint", "true")
KILLED = -9


@pytest.mark.parametrize("stage, step, left", [("head", 3, "head/checkpoint-2"), ("tune", 5, "checkpoint-4")])
def test_a_run_killed_in_a_step_ends_as_if_it_had_not_been(tune, whole, assert_same_end, tmp_path, stage, step, left):
    """Both checkpoints are of the middle of an epoch."""
    output = tmp_path / "tuned"
    assert tune(output, fault=partial(kill_in_step, stage, step)).codes == [KILLED]
    assert (output / left).is_dir() and not (output / "model.safetensors").exists()
    resumed = tune(output, *RESUME)
    assert resumed.codes == [0], resumed.printed
    assert "is incomplete" not in resumed.printed[0] and "starting afresh" not in resumed.printed[0]
    assert_same_end(output, whole)


@pytest.mark.parametrize(
    "file, why",
    [
        ("model.safetensors", "no optimizer.pt"),
        ("optimizer.pt", "no scheduler.pt"),
        ("rng_state.pth", "no trainer_state.json"),
        ("trainer_state.json", "trainer_state.json is damaged"),
    ],
)
def test_a_checkpoint_cut_short_is_passed_over(tune, whole, assert_same_end, tmp_path, file, why):
    """Though it is the only newer one and no other may be kept: `save_total_limit` 1."""
    output = tmp_path / "tuned"
    limit = ("--save_total_limit", 1)
    assert tune(output, *limit, fault=partial(kill_in_save, f"tuned/checkpoint-6/{file}")).codes == [KILLED]
    assert (output / "checkpoint-6" / file).is_file()
    resumed = tune(output, *limit, *RESUME)
    assert resumed.codes == [0], resumed.printed
    assert f"checkpoint-6 is incomplete ({why}" in resumed.printed[0]
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-8"]
    assert_same_end(output, whole)


def test_a_run_killed_in_the_first_save_of_stage_2_goes_on_from_stage_1(tune, whole, assert_same_end, tmp_path):
    output = tmp_path / "tuned"
    assert tune(output, fault=partial(kill_in_save, "tuned/checkpoint-2/model.safetensors")).codes == [KILLED]
    resumed = tune(output, *RESUME)
    assert resumed.codes == [0], resumed.printed
    assert "checkpoint-2 is incomplete" in resumed.printed[0]
    assert_same_end(output, whole)


def test_a_broken_checkpoint_that_is_asked_for_by_name_is_refused(tune, whole, tmp_path):
    output = tmp_path / "tuned"
    shutil.copytree(whole / "checkpoint-4", output / "checkpoint-4")
    (output / "checkpoint-4" / "optimizer.pt").unlink()
    ended = tune(output, "--resume_from_checkpoint", output / "checkpoint-4")
    assert ended.codes == [1]
    assert "RunCheckpointError: " in ended.printed[0]
    assert "checkpoint-4 cannot be resumed from: no optimizer.pt" in ended.printed[0]
