"""A disk that takes no more: the run says what is missing, keeps what it has, and goes on when there is room."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from planted_faults import refuse_bytes
from safetensors.torch import load_file


def tensor_bytes(checkpoint: Path) -> int:
    values = list(load_file(checkpoint / "model.safetensors").values())
    for state in torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"].values():
        values += state.values()
    return sum(value.numel() * value.element_size() for value in values)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_stops_the_run_and_spares_the_earlier_checkpoints(tune, whole, assert_same_end, tmp_path, file):
    """The system refuses the first file that is too large; `save_total_limit` would delete the other checkpoint."""
    output = tmp_path / "tuned"
    sizes = {path.name: path.stat().st_size for path in (whole / "checkpoint-6").iterdir()}
    most = sizes[file] // 2 if file == "model.safetensors" else sizes["model.safetensors"] + 1
    assert most < sizes[file]
    limit = ("--save_total_limit", 1)
    ended = tune(output, *limit, fault=partial(refuse_bytes, 6, most))
    assert ended.codes == [1]
    message = ended.printed[0].strip().splitlines()[-1]
    assert "RunCheckpointError" in message and f"{output}/checkpoint-6 could not be saved" in message
    assert f"{output}/checkpoint-4 is complete" in message
    needed, free = (float(number) for number in re.findall(r"([\d.]+) MB", message))
    assert needed == pytest.approx(tensor_bytes(whole / "checkpoint-6") / 1e6, abs=0.06)  # one decimal is shown
    assert free > 0
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-4"]
    resumed = tune(output, *limit, "--resume_from_checkpoint", "true")
    assert resumed.codes == [0], resumed.printed
    assert_same_end(output, whole)
