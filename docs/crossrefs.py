"""Links of docstrings, written [`Name`] as in transformers, for the site: to a public name, or to none."""

import re
from typing import Any

import griffe

REFERENCE = re.compile(r"\[`~?([\w.]+)`\](?![\[(])")


class CrossReferences(griffe.Extension):
    """Makes [`Name`] a link to uamix_hf.Name, and plain code where the package has no such public name."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        public = set(pkg.exports or ())

        def link(found: re.Match[str]) -> str:
            name = found[1]
            return f"[`{name}`][{pkg.path}.{name}]" if name.partition(".")[0] in public else f"`{name}`"

        rewrite(pkg, link, set())


def rewrite(parent: griffe.Object, link: Any, seen: set[str]) -> None:
    """Replaces the references in the docstrings of `parent` and its members."""
    if parent.docstring:
        parent.docstring.value = REFERENCE.sub(link, parent.docstring.value)
    for member in parent.members.values():
        if not member.is_alias and member.path not in seen:
            seen.add(member.path)
            rewrite(member, link, seen)
