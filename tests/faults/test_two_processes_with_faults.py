"""Two real processes: what befalls one, both end of, and both go on from the same checkpoint."""

from functools import partial
from pathlib import Path

import pytest
from planted_faults import kill_in_save, kill_in_step, spoil_clip, terminate_in_step

RESUME = ("--resume_from_checkpoint", "true")


@pytest.fixture(scope="module")
def whole_pair(tune, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("pair") / "tuned"
    ended = tune(output, world=2)
    assert ended.codes == [0, 0], ended.printed
    return output


@pytest.mark.parametrize(
    "fault, rank",
    [
        pytest.param(partial(kill_in_step, "tune", 5, 1), 1, id="rank 1 in a step"),
        pytest.param(
            partial(kill_in_save, "tuned/checkpoint-6/rng_state_1.pth"),
            1,
            id="rank 1 in a save",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_one_killed_process_ends_both_and_both_resume_exactly(tune, whole_pair, assert_same_end, tmp_path, fault, rank):
    """The checkpoint that both can go on from, of step 4, is of the middle of an epoch."""
    output = tmp_path / "tuned"
    codes = tune(output, fault=fault, world=2).codes
    assert codes[rank] == -9 and codes[1 - rank] == 1
    resumed = tune(output, *RESUME, world=2)
    assert resumed.codes == [0, 0], resumed.printed
    assert_same_end(output, whole_pair)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_both(tune, whole_pair, assert_same_end, tmp_path):
    output = tmp_path / "tuned"
    ended = tune(output, fault=partial(spoil_clip, 7, 4), world=2)
    assert ended.codes == [1, 1]
    messages = [printed.strip().splitlines()[-1] for printed in ended.printed]
    for message in messages:
        assert "NonFiniteLossError: The loss of step" in message and "sample_id [7]" in message, message
    resumed = tune(output, *RESUME, world=2)
    assert resumed.codes == [0, 0], resumed.printed
    assert_same_end(output, whole_pair)


def test_one_process_that_is_told_to_stop_stops_both_with_one_checkpoint(tune, whole_pair, assert_same_end, tmp_path):
    output = tmp_path / "tuned"
    ended = tune(output, "--enable_jit_checkpoint", "true", fault=partial(terminate_in_step, 5, "tune", 1), world=2)
    assert ended.codes == [1, 1]
    for printed in ended.printed:
        assert "RunStoppedError: Stopped by SIGTERM after step 5 of 8" in printed.strip().splitlines()[-1]
    resumed = tune(output, *RESUME, world=2)
    assert resumed.codes == [0, 0], resumed.printed
    assert_same_end(output, whole_pair)
