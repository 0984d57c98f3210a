"""Files of checkpoints cut short or overwritten, as by a copy that was stopped: detected, skipped, and never kept in
the place of good ones."""

import os
import shutil
import time

import pytest
from travelling import EXTRACTOR_CODE

from uamix_hf.training.checkpoints import checkpoint_problem, last_complete_checkpoint, remove_broken_checkpoints

FILES = ("model.safetensors", "config.json", "preprocessor_config.json", "optimizer.pt", "scheduler.pt",
         "rng_state.pth", "trainer_state.json", "training_args.bin", "run.json")  # fmt: skip


@pytest.fixture
def run(whole, tmp_path):
    """A folder with the checkpoints of steps 2 and 4."""
    for step in (2, 4):
        shutil.copytree(whole / f"checkpoint-{step}", tmp_path / "tuned" / f"checkpoint-{step}")
    return tmp_path / "tuned"


def test_all_checkpoints_of_a_run_are_whole_and_hold_the_files_that_are_broken_here(whole):
    for path in [*whole.glob("checkpoint-*"), *whole.glob("head/checkpoint-*")]:
        assert checkpoint_problem(path) is None
        # The code is for from_pretrained elsewhere; a run does not read it.
        assert {file.name for file in path.iterdir()} == {*FILES, *EXTRACTOR_CODE}


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_seen_to_be_broken_wherever_it_is_cut(run, file):
    path = run / "checkpoint-4" / file
    content = path.read_bytes()
    for kept in (0, 1, 7, len(content) // 10, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:kept])
        assert file in str(checkpoint_problem(run / "checkpoint-4")), kept
    path.write_bytes(bytes(len(content)))  # what a machine that lost power may leave
    assert file in str(checkpoint_problem(run / "checkpoint-4"))
    assert last_complete_checkpoint(run) == str(run / "checkpoint-2")
    path.write_bytes(content)
    assert last_complete_checkpoint(run) == str(run / "checkpoint-4")


def test_only_broken_checkpoints_of_later_steps_are_removed(run):
    for step in (6, 8, 10):
        shutil.copytree(run / "checkpoint-4", run / f"checkpoint-{step}")
    for step in (2, 4, 8):
        (run / f"checkpoint-{step}" / "trainer_state.json").unlink()
    remove_broken_checkpoints(run, after=4)
    assert {path.name for path in run.iterdir()} == {f"checkpoint-{step}" for step in (2, 4, 6, 10)}


def test_a_broken_checkpoint_that_passes_for_the_newest_does_not_cost_the_good_ones(
    tune, whole, assert_same_end, run, tmp_path
):
    """By its number and its time: rotation would keep it alone."""
    shutil.copytree(run / "checkpoint-4", run / "checkpoint-100")
    (run / "checkpoint-100" / "optimizer.pt").write_bytes(b"")
    os.utime(run / "checkpoint-100", (time.time() + 10_000,) * 2)
    ended = tune(run, "--save_total_limit", 1, "--resume_from_checkpoint", "true")
    assert ended.codes == [0] and "checkpoint-100 is incomplete (optimizer.pt is damaged" in ended.printed[0]
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-8"]
    assert_same_end(run, whole)
