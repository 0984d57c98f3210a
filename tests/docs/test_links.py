"""Links between the pages lead somewhere: to a file that exists and a heading that it has."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MADE = {"site", "build", "demo_output"}  # by make
PAGES = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not any(part in MADE or part.startswith(".") for part in path.relative_to(ROOT).parts)
]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    found = LINK.findall(without_code(page.read_text(encoding="utf-8")))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and Python-Markdown make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def broken(page: Path) -> list[str]:
    """Links of `page` without a target. Pages of the site may not leave docs/, which is all that the site has."""
    found = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        inside = DOCS not in page.parents or DOCS in target.parents
        if not target.exists() or not inside or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if links(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_what_exists(page: Path) -> None:
    assert broken(page) == []


@pytest.mark.parametrize("link", ["nowhere.md", "../README.md", "index.md#no-such-heading", "#nor-this", "none.png"])
def test_a_broken_link_is_found(link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "DOCS", tmp_path / "docs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Read me\n")
    (tmp_path / "docs" / "index.md").write_text("# Start\n")
    page = tmp_path / "docs" / "page.md"
    page.write_text(f"# A page\n\n[good](index.md#start), [here](#a-page), `[code](gone.md)` and [that]({link})\n")
    assert broken(page) == [link]
