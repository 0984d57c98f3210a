"""ASiT's checkpoints as Audio-MAE models, against outputs of the official code."""

from pathlib import Path

import pytest
from converted import assert_official, outputs

from uamix_hf.models.checkpoint import CheckpointError
from uamix_hf.models.conversion import convert


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_asit(folder, official, network: str) -> None:
    io = official("asit", "pretrained")
    output = outputs(folder("asit", "pretrained", network=network), io["input_values"], output_hidden_states=True)
    assert_official(output.last_hidden_state, io[f"{network}.last_hidden_state"])
    assert_official(output.pooler_output, io[f"{network}.embedding_cls"])
    assert_official(output.last_hidden_state[:, 1:].mean(1), io[f"{network}.embedding_mean"])
    if network == "student":
        assert_official(output.hidden_states[1], io["student.hidden_after_block0"])


def test_asit_has_two_networks(fixtures: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="network='head'.*'teacher' and 'student'"):
        convert("asit", str(fixtures / "asit" / "pretrained.pth"), str(tmp_path / "target"), network="head")
