"""Versions: those that are installed, as their own modules say, and nothing for the others."""

import importlib.metadata

import numpy
import torch
import transformers

from uamix_hf import __version__
from uamix_hf.__main__ import environment
from uamix_hf.version import PACKAGES, package_versions


def test_versions_are_those_of_the_modules() -> None:
    versions = package_versions()
    assert next(iter(versions)) == "uamix_hf" and versions["uamix_hf"] == __version__
    for module in (torch, transformers, numpy):
        assert versions[module.__name__] == module.__version__
    assert list(versions)[1:] == [name for name in PACKAGES if list(importlib.metadata.distributions(name=name))]


def test_a_package_that_is_not_installed_is_left_out_and_named_by_env(monkeypatch) -> None:
    monkeypatch.setattr("uamix_hf.version.PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setattr("uamix_hf.__main__.PACKAGES", ("numpy", "no-such-package"))
    assert list(package_versions()) == ["uamix_hf", "numpy"]
    assert environment().splitlines()[1:] == [
        f"uamix_hf {__version__}", f"numpy {numpy.__version__}", "no-such-package not installed"
    ]  # fmt: skip
