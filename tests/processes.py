"""Several processes that work together, as under a launcher."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.multiprocessing as mp


def run_processes(work: Callable, folder: Path, world: int, seconds: float = 300) -> list[dict]:
    """What each of `world` processes left in `folder/RANK.pt`, after `work(rank, folder)`; none waits for ever."""
    context = mp.spawn(work, (str(folder),), world, join=False)
    until = time.monotonic() + seconds
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < until, "the processes wait for each other"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


__all__ = ["run_processes"]
