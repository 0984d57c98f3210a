"""examples/search.py: what it prints of an index that grows, of a query and of duplicates."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("faiss", reason="search needs faiss: pip install 'uamix_hf[search]'")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples" / "demo"))
MODEL = str(ROOT / "model_cards" / "uamix-mae-tiny")


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path):
    """`search(flags)`: what the script prints."""

    def run(*flags: str) -> str:
        command = ["search.py", "--model_name_or_path", MODEL, "--index_dir", str(tmp_path / "index"), *flags]
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(str(ROOT / "examples" / "search.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from sound_events import render_event

    (tmp_path / "recordings").mkdir()
    for label in ("rain", "siren", "bell"):
        soundfile.write(tmp_path / "recordings" / f"{label}.wav", render_event(label, 0, 0), 16_000)
    return tmp_path / "recordings"


def test_a_folder_is_indexed_queried_and_grows(search, folder: Path) -> None:
    printed = search("--data_dir", str(folder), "--window_seconds", "1", "--query", str(folder / "siren.wav"))
    assert "3 recordings added, 0 as they were" in printed
    best = printed.splitlines()[4].split()  # after the changes, an empty line, the query and the heading
    assert best[3] == "siren.wav" and float(best[0]) > 0.999
    shutil.copy(folder / "rain.wav", folder / "again.wav")
    (folder / "bell.wav").unlink()
    (folder / "noise.wav").write_bytes(b"no audio")
    printed = search("--data_dir", str(folder), "--duplicates", "0.99")
    assert "1 recordings added, 2 as they were\n1 no longer in the folder: bell.wav" in printed
    assert "1 recordings were left out:\n  noise.wav: " in printed
    assert "1 pairs of recordings share windows" in printed
    assert re.search(r"1\.000 +100%  rain\.wav \((\d\.\d)\) = again\.wav \(\1\)", printed)
    printed = search("--query", str(folder / "siren.wav"), str(folder / "rain.wav"), "--top_k", "1")
    assert printed.count("similarity") == 2 and "added" not in printed and len(printed.splitlines()) == 8


def test_without_anything_to_do_it_says_so(search) -> None:
    with pytest.raises(ValueError, match="Nothing to do: give --data_dir, --query or --duplicates"):
        search()
