"""Flags of a file come before those of the command line, as if they had been written there."""

from pathlib import Path

import pytest
from transformers import HfArgumentParser

from uamix_hf.data import DataError
from uamix_hf.evaluation import ProtocolArguments, with_config_file


def test_flags_of_a_file_and_of_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("# a comment\nprotocol: [knn, linear]\ntest_folds: test\nneighbours: 3\n", encoding="utf-8")
    for config in (["--config", str(file)], [f"--config={file}"]):
        arguments = with_config_file([*config, "--neighbours", "7"])
        assert arguments[:7] == ["--protocol", "knn", "linear", "--test_folds", "test", "--neighbours", "3"]
        parser = HfArgumentParser(ProtocolArguments)
        known = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)[0]
        assert (known.protocol, known.test_folds, known.neighbours) == (["knn", "linear"], ["test"], 7)
    assert with_config_file(["--neighbours", "7"]) == ["--neighbours", "7"]
    file.write_text("trust_remote_code: true\n", encoding="utf-8")
    assert with_config_file(["--config", str(file)])[:2] == ["--trust_remote_code", "true"]


@pytest.mark.parametrize(
    "text, says",
    [
        ("- a\n", "holds list"),
        ("a: {b: c}\n", "has a: {'b': 'c'}"),
        ("a: []\n", r"has a: \[\]"),
        ("a:\n", "has a: None"),
        ("a: [b\n", "is not YAML"),
    ],
)
def test_a_file_of_another_form_is_an_error(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=says):
        with_config_file(["--config", str(tmp_path / "run.yaml")])
    with pytest.raises(DataError, match="no such file"):
        with_config_file(["--config", str(tmp_path / "other.yaml")])
