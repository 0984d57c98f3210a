"""Errors and warnings for audio that cannot be read, or not completely."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

from ..models.audio_mae.waveforms_audio_mae import AudioInputError

# A file may lack up to this fraction of its stated length at its end; it is then decoded with a warning.
MAX_MISSING_FRACTION = 0.9


class AudioDecodeError(AudioInputError):
    """A recording that cannot be read; the message names it."""


class TruncatedAudioWarning(UserWarning):
    """A recording whose end is missing; the rest was decoded. The message names it."""


class DamagedAudioWarning(UserWarning):
    """A recording with damage before its end that was decoded nevertheless. The message names it."""


def source_name(source: Any) -> str:
    """Name of an audio source for errors and warnings."""
    if isinstance(source, Mapping):
        named = source.get("path") or source.get("bytes")
        return source_name(named) if named else "a value without a path"
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, bytes):
        return f"{len(source)} bytes of audio"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"a {type(source).__name__}"


def warn_truncated(name: str, fraction: float | None) -> None:
    """Warns of a file whose end is missing.

    Args:
        name: Name of the file.
        fraction: Missing fraction of its stated length, None if unknown.

    Raises:
        AudioDecodeError: More than [`MAX_MISSING_FRACTION`] is missing.
    """
    missing = "its end is missing" if fraction is None else f"{100 * fraction:.3g} % of its stated length is missing"
    if fraction is not None and fraction > MAX_MISSING_FRACTION:
        raise AudioDecodeError(
            f"{name}: {missing}, more than {100 * MAX_MISSING_FRACTION:g} %. Obtain the file again, or leave it out."
        )
    warnings.warn(f"{name}: {missing}; it was decoded up to there.", TruncatedAudioWarning, stacklevel=2)


__all__ = [
    "MAX_MISSING_FRACTION",
    "AudioDecodeError",
    "DamagedAudioWarning",
    "TruncatedAudioWarning",
    "source_name",
    "warn_truncated",
]
