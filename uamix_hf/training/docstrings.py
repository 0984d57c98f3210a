"""The `Args:` section of a docstring as help texts, so that each argument is described in one place."""

import inspect
import re

ENTRY = re.compile(r"(\*{0,2}\w+):(?: (.*))?")


def argument_descriptions(documented: type) -> dict[str, str]:
    """Descriptions of the arguments in a class's Google-style docstring, by name, each on one line.

    Args:
        documented: A class whose docstring has a section `Args:`, one argument a line; longer descriptions go on in
            lines that are indented further.

    Raises:
        ValueError: no such section, or an argument that is described twice.
    """
    lines = inspect.cleandoc(documented.__doc__ or "").splitlines()
    if "Args:" not in lines:
        raise ValueError(f"The docstring of {documented.__name__} has no section 'Args:'.")
    found: dict[str, list[str]] = {}
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break  # the next section
        entry = ENTRY.fullmatch(line.strip()) if line.startswith("    ") and not line.startswith("     ") else None
        if entry:
            name = entry[1].lstrip("*")
            if name in found:
                raise ValueError(f"The docstring of {documented.__name__} describes {name} twice.")
            found[name] = [entry[2] or ""]
        elif line.strip() and found:
            found[next(reversed(found))].append(line.strip())
    return {name: " ".join(part for part in parts if part) for name, parts in found.items()}


__all__ = ["argument_descriptions"]
