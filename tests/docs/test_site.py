"""The documentation's site builds without a warning, with its formulas, and with every public name in its reference."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import uamix_hf

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PUBLIC = sorted(set(uamix_hf.__all__) - {"__version__"})


def test_the_reference_has_each_public_name_once() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in sorted(REFERENCE.glob("*.md")))
    assert sorted(re.findall(r"^::: uamix_hf\.(\w+)$", pages, flags=re.MULTILINE)) == PUBLIC
    index = (REFERENCE / "index.md").read_text(encoding="utf-8")
    assert not [name for name in PUBLIC if f"`{name}`" not in index]


def test_the_navigation_has_each_page_once() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ *- .*?([\w/]+\.md)$", config, flags=re.MULTILINE)
    docs = ROOT / "docs"
    assert sorted(listed) == sorted(page.relative_to(docs).as_posix() for page in docs.rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, in a folder of its own. `make check` builds it, too."""
    pytest.importorskip("zensical", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / "uamix_hf").symlink_to(ROOT / "uamix_hf")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.mark.slow
def test_each_public_name_is_rendered_with_its_docstring(site: Path) -> None:
    html = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").rglob("*.html"))
    for name in PUBLIC:
        summary = (getattr(uamix_hf, name).__doc__ or "").strip().split()[:3]
        block = html.partition(f'id="uamix_hf.{name}"')[2].partition('id="uamix_hf.')[0]
        words = re.sub(r"<[^>]+>", "", block)
        assert summary and all(word.strip("`[].,:") in words for word in summary), name
    assert 'href="#uamix_hf.' in html
    assert not re.findall(r"\[<code>[\w.]+</code>\]", html)  # references of docstrings are links, or code


@pytest.mark.slow
def test_formulas_are_mathml_without_commands_that_are_left_over(site: Path) -> None:
    source = (ROOT / "docs" / "concepts" / "method.md").read_text(encoding="utf-8")
    html = (site / "concepts" / "method" / "index.html").read_text(encoding="utf-8")
    assert html.count('display="block"') == source.count("\n$$\n") / 2
    assert html.count("<math") > html.count('display="block"') > 5
    formulas = re.findall(r"<math.*?</math>", html, flags=re.DOTALL)
    assert not [formula for formula in formulas if "\\" in re.sub(r"<annotation.*?</annotation>", "", formula)]
