"""No script of this project stands in the way of a library that it needs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Python puts the folder of a script first on its path: a script of a library's name would be imported in its place.
FIND = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"


@pytest.mark.parametrize("folder", ["examples", "examples/demo", "benchmarks", "reproduction"])
def test_no_script_has_the_name_of_an_installed_module(folder: str, tmp_path: Path) -> None:
    names = [path.stem for path in (ROOT / folder).glob("*.py")]
    command = [sys.executable, "-c", FIND, "evaluate", *names]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['evaluate']"
