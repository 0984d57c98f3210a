"""Processes of their own: an example, and several that work together, as under a launcher."""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

ROOT = Path(__file__).parents[1]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no",
          "--dynamo_backend", "no"]  # fmt: skip
Fault = Callable[[], None]

# Processes are forked from one that has done the imports but no work yet: they start without seconds of imports.
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(
    ["uamix_hf.fine_tuning", "uamix_hf.pretraining", "transformers.trainer", "datasets", "accelerate"]
)


def launch(
    script: str | Path, *arguments: object, environment: dict[str, str] | None = None, processes: int = 1
) -> str:
    """Runs a script under accelerate and returns what it printed. What needs no launcher is for `run_example`."""
    several = ["--multi_gpu"] if processes > 1 else []  # `--cpu` would run a single process and not say so
    command = [*LAUNCH, *several, "--num_processes", str(processes), str(script), *map(str, arguments)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@dataclass
class Ended:
    """What is left of a run: exit codes (-9: SIGKILL) and all that was printed, per process."""

    codes: list[int]
    printed: list[str]

    def well(self) -> str:
        """What a run printed that was to end without an error."""
        assert not any(self.codes), "\n".join(self.printed)[-4000:]
        return "".join(self.printed)


def run_example(name: str | Path, *arguments: object, fault: Fault | None = None, world: int = 1) -> Ended:
    """`python examples/NAME ARGUMENTS` (or another path) in `world` processes, as a launcher would start them."""
    output = Path(str(arguments[arguments.index("--output_dir") + 1]))
    command = [str(ROOT / "examples" / name), *map(str, arguments)]
    return run_forked(command, output, fault, world)


def run_code(code: str, folder: Path, *arguments: object) -> Ended:
    """`python -c CODE ARGUMENTS` in a process of its own, which has done the imports; its log goes into `folder`."""
    script = folder / "code.py"
    script.write_text(code, encoding="utf-8")
    return run_forked([str(script), *map(str, arguments)], folder / "code")


def run_forked(command: list[str], log: Path, fault: Fault | None = None, world: int = 1) -> Ended:
    """A script with arguments; what process R prints goes to `LOG-R.log`. None is waited for for ever."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    logs = [log.with_name(f"{log.name}-{rank}.log") for rank in range(world)]
    started = [
        forked.Process(target=run_script, args=(command, fault, rank, world, port, log))
        for rank, log in enumerate(logs)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    hanging = [process for process in started if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging, "\n".join(log.read_text() for log in logs)
    return Ended([process.exitcode or 0 for process in started], [log.read_text() for log in logs])


def run_script(command: list[str], fault: Fault | None, rank: int, world: int, port: str, log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    if fault is not None:
        fault()
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def run_processes(work: Callable[[int, str], dict], folder: Path, world: int, seconds: float = 300) -> list[dict]:
    """What `work(rank, folder)` gives in each of `world` processes that form a group; none waits for ever."""
    context = mp.start_processes(in_a_group, (work, str(folder), world), world, join=False, start_method="forkserver")
    until = time.monotonic() + seconds
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < until, "the processes wait for each other"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def in_a_group(rank: int, work: Callable[[int, str], dict], folder: str, world: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    dist.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    torch.save(work(rank, folder), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def assert_all_close(found: dict, expected: dict) -> None:
    """Equal but for rounding. Values reach 10, so what may differ is counted from the largest of each."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = 1e-5 * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(
            found[name], value, atol=tolerance, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


__all__ = ["Ended", "Fault", "assert_all_close", "launch", "run_code", "run_example", "run_processes"]
