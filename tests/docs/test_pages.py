"""What the documentation shows works: Python blocks run as written, commands use flags that exist."""

import csv
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOUND_EVENTS = ROOT / "examples" / "demo" / "sound_events.py"
LABELS = ("bell", "dog_bark", "engine", "rain", "siren", "wind")
CLIPS_PER_CLASS = 6
# Pages whose blocks need nothing but `model_cards` and `recordings`.
PAGES = [DOCS / "index.md", DOCS / "quick_start.md", *DOCS.glob("how_to/*.md"), *DOCS.glob("concepts/*.md")]


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: the clone's `model_cards`, and `recordings` as examples/demo/sound_events.py renders them."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "model_cards").symlink_to(ROOT / "model_cards")
    render_event = runpy.run_path(str(SOUND_EVENTS))["render_event"]
    rows = [("file_name", "label", "fold")]
    for label in LABELS:
        (folder / "recordings" / "audio" / label).mkdir(parents=True)
        for index in range(CLIPS_PER_CLASS):
            name = f"audio/{label}/{label}-{index:03d}.flac"
            soundfile.write(folder / "recordings" / name, render_event(label, 0, index), 16_000)
            rows.append((name, label, str(index % 5 + 1)))
    with (folder / "recordings" / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_blocks_run_one_after_the_other(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": page.stem}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
        printed = capsys.readouterr().out
        for shape in re.findall(r"print\(.*# (\([\d, ]+\)|torch\.Size\(.*\))", block):
            assert shape in printed, f"{page.name}, block {number} promises {shape}"


def commands() -> list[tuple[str, str, list[str]]]:
    """Page, script and flags of each command that runs one of the examples."""
    found = []
    for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]:
        lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
        for words in (shlex.split(line, comments=True) for line in lines):
            scripts = [
                place for place, word in enumerate(words) if word.startswith("examples/") and word.endswith(".py")
            ]
            if scripts:
                flags = [word for word in words[scripts[0] + 1 :] if word.startswith("--")]
                found.append((page.name, words[scripts[0]], flags))
    return found


@pytest.mark.parametrize("script", sorted({script for _, script, _ in commands()}))
def test_commands_use_flags_that_exist(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.syspath_prepend(str((ROOT / script).parent))
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    known = set(re.findall(r"--\w+", capsys.readouterr().out))
    wrong = [(page, flag) for page, name, flags in commands() if name == script for flag in flags if flag not in known]
    assert not wrong
