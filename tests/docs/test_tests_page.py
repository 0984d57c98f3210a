"""tests/README.md names tests that exist, and `-k` words that select some of them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
FILES = sorted(set(re.findall(r"tests/[\w/]+\.\w+", PAGE)))
SELECTED = re.findall(r'(tests/[\w/]+\.py) -k (?:"([^"`]+)"|([\w]+))', PAGE)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_named_exists(name: str) -> None:
    assert (ROOT / name).is_file()


@pytest.mark.parametrize(("name", "words"), [(name, quoted or word) for name, quoted, word in SELECTED])
def test_each_word_selects_a_test(name: str, words: str) -> None:
    """In a test's name, or a parameter's."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for word in set(re.findall(r"\w+", words)) - {"and", "or", "not"}:
        assert re.search(rf"^def test_\w*{word}|^def \w*{word}|[\"'][^\"'\n]*{word}", text, flags=re.MULTILINE), word


def test_the_page_names_many() -> None:
    assert len(FILES) > 25 and len(SELECTED) > 30
