"""How much memory a piece of work needs at its worst, as the operating system counts it."""

import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psutil

MOST_ROUNDS = 3  # it hardly varies
# glibc would keep freed tensors for later ones, and how many depends on the order of their sizes.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


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


def in_own_process(measure: Callable[..., int], *arguments: Any) -> int:
    """`measure(*arguments)`, a function of a module, in a process forked from one that has imported the package and
    computed nothing; memory that is freed there goes back at once."""
    os.environ.update(GIVE_BACK)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["uamix_hf.tuning"])
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(measure, *arguments).result()
