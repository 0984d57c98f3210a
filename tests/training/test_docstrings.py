"""Help texts out of docstrings."""

import pytest

from uamix_hf.training.docstrings import argument_descriptions


class Documented:
    """Summary: not an argument.

    Args:
        first: One line, with a colon: here.
        second: Two
            lines, the second of which
            other: is no argument.
        **third: Any.

    Raises:
        ValueError: not an argument.
    """


class Twice:
    """Summary.

    Args:
        one: A.
        one: B.
    """


class Bare:
    """Summary."""


def test_each_argument_has_its_whole_description() -> None:
    assert argument_descriptions(Documented) == {
        "first": "One line, with a colon: here.",
        "second": "Two lines, the second of which other: is no argument.",
        "third": "Any.",
    }


@pytest.mark.parametrize("kind, message", [(Twice, "describes one twice"), (Bare, "no section 'Args:'")])
def test_a_docstring_that_does_not_describe_them_is_refused(kind: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        argument_descriptions(kind)
