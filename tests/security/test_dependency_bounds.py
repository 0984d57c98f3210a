"""What setup.cfg promises of dependencies: lower bounds that are tested, upper bounds with a reason."""

import configparser
import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
# Major versions known to break, or whose internals are used, each said in CONTRIBUTING.md.
BOUNDED_ABOVE = {"transformers", "torchcodec", "sentence-transformers", "zensical"}


def requirements() -> list[Requirement]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"]
    for extra in config["options.extras_require"].values():
        lines += "\n" + extra
    return [Requirement(line) for line in lines.splitlines() if line.strip()]


def pinned(name: str) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return dict(re.split("==", line) for line in lines if line)


def bound(requirement: Requirement, operators: tuple[str, ...]) -> str | None:
    versions = [part.version for part in requirement.specifier if part.operator in operators]
    assert len(versions) <= 1, requirement
    return versions[0] if versions else None


def test_every_dependency_has_a_lower_bound_which_the_minimum_run_installs() -> None:
    lower = {requirement.name: bound(requirement, (">=",)) for requirement in requirements()}
    assert None not in lower.values(), lower
    pins = pinned("constraints-minimum.txt")
    assert {name: Version(version) for name, version in pins.items()} == {
        name: Version(str(version)) for name, version in lower.items()
    }


def test_upper_bounds_are_where_a_major_version_breaks_and_nowhere_else() -> None:
    above = {requirement.name for requirement in requirements() if bound(requirement, ("<", "<=", "=="))}
    assert above == BOUNDED_ABOVE
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text[text.index("**Dependencies.**") :]
    assert all(f"`{name}" in section for name in BOUNDED_ABOVE)


def test_the_versions_of_the_usual_run_are_within_the_bounds() -> None:
    pins = {name.lower().replace("_", "-"): version for name, version in pinned("constraints.txt").items()}
    for requirement in requirements():
        if requirement.name in pins:
            assert requirement.specifier.contains(pins[requirement.name]), requirement


INSTALLED = [one for one in requirements() if list(importlib.metadata.distributions(name=one.name))]


@pytest.mark.parametrize("requirement", INSTALLED, ids=str)
def test_what_is_installed_here_is_within_the_bounds(requirement: Requirement) -> None:
    version = Version(importlib.metadata.version(requirement.name))
    assert requirement.specifier.contains(version.public, prereleases=True)
