"""reproduction/: its page names every script, and all flags that are given to examples exist."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "reproduction"


def read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def flags_given() -> dict[str, set[str]]:
    """Flags by the example that they are given to."""
    recipe, fine_tuning, shell = (
        json.loads(read("recipe.json")),
        json.loads(read("fine_tuning.json")),
        read("checkpoints.sh"),
    )
    command = read("recipe.py").partition("def command(")[2].partition("\ndef ")[0]
    variants, baselines = (
        [entry["flags"] for entry in recipe["variants"].values() if ("script" in entry) == baseline]
        for baseline in (False, True)
    )
    groups = [entry["flags"] for part in ("sets", "variants") for entry in fine_tuning[part].values()]
    draws = [draw for entry in fine_tuning["sets"].values() for draw in entry["draws"]]
    texts = {
        "pretrain.py": shell.partition("pretrain.py")[2].partition("uamix-hf export")[0],
        "tune.py": shell.partition("tune.py")[2].partition("uamix-hf export")[0]
        + " ".join([command, recipe["common"], recipe["uamix"], *variants]),
        "pseudo_labels.py": " ".join([command, recipe["common"], *baselines]),
        "finetune.py": " ".join([fine_tuning["common"], *groups, *draws]),
        "few_shot.py": shell.partition("few_shot.py")[2],
    }
    launcher = {"--num_processes", "--num_machines", "--mixed_precision", "--dynamo_backend"}
    return {script: set(re.findall(r"--\w+", text)) - launcher for script, text in texts.items()}


@pytest.mark.parametrize("script", ["pretrain.py", "tune.py", "pseudo_labels.py", "finetune.py", "few_shot.py"])
def test_flags_that_are_given_exist(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given = flags_given()[script]
    assert len(given) >= 8
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
    assert given <= set(re.findall(r"--\w+", capsys.readouterr().out))


@pytest.mark.parametrize("script", ["recipe.py", "recipe_table.py", "fine_tuning.py"])
def test_commands_of_the_page_have_flags_that_exist(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (command,) = re.findall(rf"`python reproduction/{script} (.*?)`", read("README.md"))
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.syspath_prepend(str(FOLDER))
    with pytest.raises(SystemExit):
        runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert set(re.findall(r"--\w+", command)) <= set(re.findall(r"--\w+", capsys.readouterr().out))


def test_the_page_names_every_file() -> None:
    files = {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md"}
    assert files == set(re.findall(r"\]\((\w+\.\w+)\)", read("README.md")))
