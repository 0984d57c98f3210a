"""How much memory a piece of work needs at its worst, as the operating system counts it."""

import resource
import sys
from collections.abc import Callable

import psutil


class HiddenPeakError(RuntimeError):
    """The process needed more memory earlier than in what was to be measured."""


def highest() -> int:
    """Bytes of resident memory that this process has had at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def added_peak(work: Callable[[], object]) -> int:
    """Bytes by which the memory of this process at its highest in `work` exceeds what it held before.

    Raises:
        HiddenPeakError: it was higher before, so that the system does not tell.
    """
    before, earlier = psutil.Process().memory_info().rss, highest()
    work()
    if highest() <= earlier:
        raise HiddenPeakError(f"Memory was as high as {earlier} bytes before: measure in a fresh process.")
    return highest() - before
