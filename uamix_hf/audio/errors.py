"""What is said of audio that cannot be read, or not all of it."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

from ..models.audio_mae.feature_extraction_audio_mae import AudioInputError

# Share of a file's stated length whose absence at its end is only warned of.
MOST_MISSING = 0.9


class AudioDecodeError(AudioInputError):
    """A recording that cannot be read; the message names it."""


class TruncatedAudioWarning(UserWarning):
    """A recording that ends before its end; what there is of it was decoded. The message names it."""


class DamagedAudioWarning(UserWarning):
    """A recording with damage before its end, that could be read all the same. The message names it."""


def describe(source: Any) -> str:
    """How an error names a source of sound."""
    if isinstance(source, Mapping):
        named = source.get("path") or source.get("bytes")
        return describe(named) if named else "a value without a path"
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, bytes):
        return f"{len(source)} bytes of sound"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"a {type(source).__name__}"


def warn_truncated(name: str, share: float | None) -> None:
    """Of a file whose end is missing; `share` is how much of its stated length, None where that cannot be told.

    Raises:
        AudioDecodeError: more than [`MOST_MISSING`].
    """
    missing = "its end is missing" if share is None else f"{100 * share:.3g} % of its stated length is missing"
    if share is not None and share > MOST_MISSING:
        raise AudioDecodeError(
            f"{name}: {missing}, more than {100 * MOST_MISSING:g} %: what is left stands for nothing. Get it anew, or "
            "leave it out."
        )
    warnings.warn(f"{name}: {missing}; read up to there.", TruncatedAudioWarning, stacklevel=2)


__all__ = [
    "MOST_MISSING",
    "AudioDecodeError",
    "DamagedAudioWarning",
    "TruncatedAudioWarning",
    "describe",
    "warn_truncated",
]
