"""Files for contributors name what exists: commands, versions, folders."""

import contextlib
import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from uamix_hf.__main__ import build_parser
from uamix_hf.version import __version__

ROOT = Path(__file__).parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def load(name: str) -> dict:
    return yaml.safe_load(read(name))


def sub_commands(text: str) -> set[str]:
    return set(re.findall(r"\buamix-hf (\w+)", text))


def test_the_workflow_runs_the_two_commands_that_contributors_run() -> None:
    steps = load(".github/workflows/ci.yml")["jobs"]["test"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands == ["make test", "make check"]
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    for command in commands:
        assert command.removeprefix("make ") in targets
        assert f"`{command}`" in read("CONTRIBUTING.md") and f"`{command}`" in read(".github/PULL_REQUEST_TEMPLATE.md")


def test_the_workflow_has_the_python_of_the_makefile_and_caches_by_files_that_exist() -> None:
    (python,) = [
        step["with"] for step in load(".github/workflows/ci.yml")["jobs"]["test"]["steps"] if "python" in str(step)
    ]
    assert f"command -v python{python['python-version']}" in read("Makefile")
    assert all((ROOT / name).is_file() for name in python["cache-dependency-path"].split())


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_a_form_has_what_github_asks_of_it(name: str) -> None:
    form = load(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= form.keys()
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len({field["attributes"]["label"] for field in fields})
    assert len({field["id"] for field in fields}) == len(fields)


def test_a_bug_report_must_have_the_output_of_a_command_that_exists() -> None:
    fields = {part["id"]: part for part in load(".github/ISSUE_TEMPLATE/bug_report.yml")["body"] if "id" in part}
    assert fields.keys() == {"environment", "reproduction", "traceback", "expected"}
    assert all(field["validations"]["required"] is True for field in fields.values())
    (command,) = sub_commands(fields["environment"]["attributes"]["description"])
    assert command == "env" and build_parser().parse_args([command]).command == command


def test_the_hooks_run_the_ruff_of_make_check_on_the_same_files() -> None:
    config = load(".pre-commit-config.yaml")
    (ruff,) = [repository for repository in config["repos"] if repository["repo"].endswith("/ruff-pre-commit")]
    (pin,) = re.findall(r"^ruff==(.*)$", read("constraints.txt"), re.MULTILINE)
    assert ruff["rev"] == f"v{pin}"
    (pattern,) = tomllib.loads(read("pyproject.toml"))["tool"]["ruff"]["extend-exclude"]
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    files = listed.stdout.splitlines()
    left_out = {name for name in files if fnmatch(name, pattern)}
    assert left_out and left_out == {name for name in files if re.search(config["exclude"], name)}


def test_the_version_is_the_newest_of_the_changelog_and_that_to_cite() -> None:
    headings = re.findall(r"^## \[(.*?)\](?: - (\d{4}-\d{2}-\d{2}))?$", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    version, date = headings[1]
    citation = load("CITATION.cff")
    assert version == citation["version"] == __version__
    assert date == str(citation["date-released"])


def test_the_page_of_the_method_is_named_by_its_path() -> None:
    """Bare, the name is that of no file; a link, a quoted part of a path and what 0.1.0 saved are something else."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    found = []
    for name in listed.stdout.splitlines():
        if name.startswith("tests/hub/saved_by_") or not (ROOT / name).is_file():
            continue
        with contextlib.suppress(UnicodeDecodeError):
            text = read(name)
            found += [f"{name}: {match[0]}" for match in re.finditer(r"(?<![/\w\"])method\.md(?!#).{,9}", text)]
    assert found == []


LINES, MODELLING_LINES = 300, 450


def test_a_file_does_one_job() -> None:
    """Longer files do two; those of models hold whole architectures, as in transformers."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    files = [ROOT / name for name in listed.stdout.splitlines()]
    long = {}
    for file in files:
        name = file.relative_to(ROOT)
        if name.parts[0] not in ("uamix_hf", "examples", "reproduction", "benchmarks") or not file.is_file():
            continue
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > (MODELLING_LINES if name.name.startswith("modeling_") else LINES):
            long[name.as_posix()] = lines
    assert long == {}
