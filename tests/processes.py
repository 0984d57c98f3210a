"""Several processes that work together, as under a launcher."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.multiprocessing as mp

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no",
          "--dynamo_backend", "no"]  # fmt: skip


def launch(script: str, *arguments: object, environment: dict[str, str] | None = None, processes: int = 1) -> str:
    """Runs a script under accelerate and returns what it printed."""
    several = ["--multi_gpu"] if processes > 1 else []  # `--cpu` would run a single process and not say so
    command = [*LAUNCH, *several, "--num_processes", str(processes), str(script), *map(str, arguments)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


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


__all__ = ["launch", "run_processes"]
