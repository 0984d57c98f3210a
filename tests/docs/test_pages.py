"""What the documentation shows works: Python blocks run as written, commands name scripts and flags that exist."""

import csv
import functools
import io
import re
import runpy
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from uamix_hf import AudioMAEFeatureExtractor, AudioMAEForAudioClassification
from uamix_hf.__main__ import CONVERSION_OPTIONS, build_parser
from uamix_hf.models.conversion import SYSTEMS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "examples" / "demo"))
LABELS = ("bell", "dog_bark", "engine", "rain", "siren", "wind")
CLIPS_PER_CLASS = 6
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
# Pages whose Python takes long; the others have the same calls.
SLOW = {
    "benchmarks",
    "quick_start",
    "few_labels",
    "lora",
    "onnx",
    "own_encoder",
    "pretraining",
    "evaluation",
    "fine_tuning",
    "own_recordings",
    "sentence_transformers",
    "trackers",
    "README",
}
# Of accelerate and hf.
OTHER_FLAGS = {"--multi_gpu", "--num_processes", "--cpu", "--config_file", "--num_machines", "--machine_rank",
               "--main_process_ip", "--repo"}  # fmt: skip
CONSOLE = {"accelerate", "git", "hf", "make", "pip", "python", "uamix-hf", "export"}


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: the clone's `model_cards` and `examples`, and folders of rendered recordings."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("model_cards", "examples"):
        (folder / name).symlink_to(ROOT / name)
    from sound_events import render_event

    rows = [("file_name", "label", "fold")]
    for label in LABELS:
        (folder / "recordings" / "audio" / label).mkdir(parents=True)
        for index in range(CLIPS_PER_CLASS):
            name = f"audio/{label}/{label}-{index:03d}.flac"
            soundfile.write(folder / "recordings" / name, render_event(label, 0, index), 16_000)
            rows.append((name, label, str(index % 5 + 1)))
    with (folder / "recordings" / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    (folder / "labelled").symlink_to("recordings")
    # What the command of docs/fine_tuning.md leaves, untrained.
    encoder = ROOT / "model_cards" / "audio-mae-tiny"
    AudioMAEForAudioClassification.from_pretrained(encoder, num_labels=3).save_pretrained(folder / "classifier")
    AudioMAEFeatureExtractor.from_pretrained(encoder).save_pretrained(folder / "classifier")
    return folder


def shortened(block: str) -> str:
    """`block` with as few steps of training as there can be."""
    for name, value in {"max_steps": "2", "head_steps": "1", "num_train_epochs": "1"}.items():
        block = re.sub(rf"\b{name}=\d+", f"{name}={value}", block)
    return block


def python_pages() -> list[Any]:
    found = [page for page in PAGES if blocks(page, "python")]
    marks = {True: [pytest.mark.slow], False: []}
    return [pytest.param(page, marks=marks[page.stem in SLOW], id=name_of(page)) for page in found]


def run_blocks(page: Path, found: list[str], capsys: pytest.CaptureFixture) -> None:
    """Run blocks one after the other, in one namespace; what they print has the shapes that they promise."""
    names: dict[str, Any] = {"__name__": page.stem}
    for number, block in enumerate(found, start=1):
        exec(compile(shortened(block), f"{page.name}, block {number}", "exec"), names)
        printed = capsys.readouterr().out
        for shape in re.findall(r"print\(.*# (\([\d, ]+\)|torch\.Size\(.*\))", block):
            assert shape in printed, f"{page.name}, block {number} promises {shape}"


@pytest.mark.parametrize("page", python_pages())
def test_python_blocks_run_one_after_the_other(
    page: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for entry in folder.iterdir():  # pages write outputs of the same names
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    run_blocks(page, blocks(page, "python"), capsys)


def test_the_readmes_quick_start_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(ROOT)
    page = ROOT / "README.md"
    quick_start = [block for block in blocks(page, "python") if "Trainer" not in block]
    assert len(quick_start) == 2
    run_blocks(page, quick_start, capsys)


def commands(page: Path) -> list[list[str]]:
    """The words of each command line of a page's shell blocks."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def script_commands() -> list[tuple[str, str, list[str]]]:
    """Page, script and flags of each command that runs a script of the repository."""
    found = []
    for page in PAGES:
        for words in commands(page):
            scripts = [place for place, word in enumerate(words) if word.endswith(".py")]
            if scripts:
                flags = [word for word in words[scripts[0] + 1 :] if word.startswith("--")]
                found.append((name_of(page), words[scripts[0]], flags))
    return found


def test_commands_are_known_and_their_scripts_and_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for page in PAGES:
        for words in commands(page):
            assert words[0] in CONSOLE, f"{name_of(page)}: {words[0]}"
            assert words[0] != "make" or words[1] in targets, f"{name_of(page)}: make {words[1]}"
            if words[0] == "uamix-hf":
                build_parser().parse_args(words[1:])
    missing = {(page, script) for page, script, _ in script_commands() if not (ROOT / script).is_file()}
    assert not missing


@functools.cache
def flags_of(script: str) -> set[str]:
    """The flags that `script --help` lists."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), pytest.raises(SystemExit):
        patch.setattr(sys, "argv", [script, "--help"])
        patch.syspath_prepend(str((ROOT / script).parent))
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return set(re.findall(r"--\w+", printed.getvalue()))


@pytest.mark.parametrize("script", sorted({script for _, script, flags in script_commands() if flags}))
def test_commands_use_flags_that_exist(script: str) -> None:
    used = [(page, flag) for page, name, flags in script_commands() if name == script for flag in flags]
    assert not [(page, flag) for page, flag in used if flag not in flags_of(script)]


def test_flags_in_the_text_exist() -> None:
    """Each is one of an example, of a script that some page runs, of `uamix-hf` or of a launcher."""
    known = OTHER_FLAGS | {f"--{name}" for name in CONVERSION_OPTIONS}
    examples = {path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*.py")}
    for script in examples | {script for _, script, flags in script_commands() if flags}:
        known |= flags_of(script)
    found = set()
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        found |= {
            (name_of(page), flag) for code in re.findall(r"`([^`]+)`", text) for flag in re.findall(r"--\w+", code)
        }
    assert not {(page, flag) for page, flag in found if flag not in known}
    assert len(found) > 80


def test_every_block_names_a_language_that_is_checked() -> None:
    fences = {(name_of(page), fence) for page in PAGES
              for fence in re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)}  # fmt: skip
    assert {fence for _, fence in fences} <= {"", "python", "sh", "text", "bibtex"}


def test_the_clip_of_the_quick_start_is_what_its_note_says() -> None:
    from sound_events import render_event

    note = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    label, seed, index = re.findall(r'render_event\("(\w+)", seed=(\d+), index=(\d+)\)', note)[0]
    expected = render_event(label, int(seed), int(index))
    clip, rate = soundfile.read(ROOT / "examples" / f"{label}.flac", dtype="float32")
    assert rate == 16_000
    np.testing.assert_allclose(clip, expected, atol=2**-14)  # 16 bits


def test_the_page_on_released_weights_has_every_system_with_its_licence() -> None:
    page = (DOCS / "how_to" / "released_weights.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*(arXiv [\d.]+).*\| ([\w.-]+) \|$", page, flags=re.MULTILINE)
    assert [row[0] for row in rows] == sorted(SYSTEMS)
    for name, paper, licence in rows:
        assert licence == SYSTEMS[name].licence and paper in SYSTEMS[name].citation, name
