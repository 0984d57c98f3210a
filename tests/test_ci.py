""".ci/run with stand-ins for what it calls: in which order, in which environment, and what stops it."""

import os
import shutil
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

ALL = "test-rest VENV=.venv-all EXTRAS=test,docs,torchcodec,ray,wandb,app,browser"
SCRIPT = Path(__file__).parents[1] / ".ci" / "run"
MAKE = """#!/bin/sh
echo "make $*; ffmpeg $(command -v ffmpeg > /dev/null && echo found || echo absent);\
 shared ${UAMIX_REQUIRE_SHARED-}; all ${UAMIX_REQUIRE_ALL-}; $PYTHON" >> calls
[ "$*" != "$FAIL" ]
"""


def write_command(path: Path, text: str = "#!/bin/sh\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def ci(tmp_path: Path):
    """`ci(fail="make's arguments")`: exit status, and what was called; of two folders of PATH each has all commands."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(SCRIPT, tmp_path / ".ci")
    commands = [tmp_path / "commands", tmp_path / "more commands"]
    for folder in commands:
        write_command(folder / "ffmpeg")
        write_command(folder / "ffprobe")
        write_command(folder / "chromium")
    write_command(commands[1] / "make", MAKE)  # before the system's

    def ci(fail: str = "") -> tuple[int, list[str]]:
        path = os.pathsep.join([*map(str, commands), os.environ["PATH"]])
        environment = {"PATH": path, "FAIL": fail}
        done = subprocess.run([tmp_path / ".ci" / "run"], env=environment, capture_output=True, text=True, timeout=60)
        calls = tmp_path / "calls"
        return done.returncode, calls.read_text().splitlines() if calls.exists() else []

    return ci


def test_the_users_command_comes_first_and_sees_no_ffmpeg_and_then_nothing_may_skip(ci) -> None:
    code, calls = ci()
    python = shutil.which("python3.11") or shutil.which("python3")
    assert code == 0
    assert calls == [
        f"make test; ffmpeg absent; shared 1; all ; {python}",
        f"make {ALL}; ffmpeg found; shared 1; all 1; {python}",
        f"make check; ffmpeg found; shared 1; all ; {python}",
    ]


STEPS = ["test", ALL, "check"]


@pytest.mark.parametrize("number, step", list(enumerate(STEPS)))
def test_what_fails_stops_it(ci, number: int, step: str) -> None:
    code, calls = ci(fail=step)
    assert code != 0 and len(calls) == number + 1


def test_an_environment_that_has_torchcodec_is_not_the_users(ci, tmp_path: Path) -> None:
    (tmp_path / ".venv/lib/python3.11/site-packages/torchcodec").mkdir(parents=True)
    code, calls = ci()
    assert code == 1 and len(calls) == 1


def test_readme_tells_to_run_what_it_runs_first() -> None:
    readme = (SCRIPT.parents[1] / "README.md").read_text(encoding="utf-8")
    assert "\nmake test " in readme and "PATH=$bare make test\n" in SCRIPT.read_text(encoding="utf-8")


# --- what may skip


@pytest.mark.parametrize(
    ("name", "extra", "required"),
    [("", False, False), ("ALL", False, True), ("ALL", True, True), ("SHARED", False, True), ("SHARED", True, False)],
)
def test_where_nothing_may_skip_a_test_that_skips_fails(
    request, monkeypatch, name: str, extra: bool, required: bool
) -> None:
    """In the user's environment one that is marked may, since the second one runs it."""
    conftest = request.config.pluginmanager.get_plugin(str(Path(__file__).with_name("conftest.py")))
    for one in ("ALL", "SHARED"):
        monkeypatch.setenv(f"UAMIX_REQUIRE_{one}", "1" if one == name else "")
    report = pytest.TestReport("a", ("a.py", 1, "a"), {}, "skipped", ("a.py", 1, "Skipped: no such codec"), "call")
    item = SimpleNamespace(get_closest_marker={"extra": extra}.get)
    wrapper = conftest.pytest_runtest_makereport(item)
    next(wrapper)
    with pytest.raises(StopIteration) as end:
        wrapper.send(report)
    assert end.value.value is report
    assert report.failed == required and "no such codec" in str(report.longrepr)
