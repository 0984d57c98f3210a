"""Real processes that run an example, and what may befall them there."""

import multiprocessing
import os
import resource
import runpy
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
Fault = Callable[[], None]

# Each run is a process of its own, forked from one that has done the imports but no work yet.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["uamix_hf", "transformers.trainer", "datasets", "accelerate"])


@dataclass
class Ended:
    """What is left of a run: exit codes (-9: SIGKILL) and all that was printed, per process."""

    codes: list[int]
    printed: list[str]


def run_example(name: str, *arguments: object, fault: Fault | None = None, world: int = 1) -> Ended:
    """`python examples/NAME ARGUMENTS` in `world` processes, as a launcher would start them; none waits for ever."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    output = Path(str(arguments[arguments.index("--output_dir") + 1]))
    logs = [output.with_name(f"{output.name}-{rank}.log") for rank in range(world)]
    command = [name, *map(str, arguments)]
    started = [
        processes.Process(target=work, args=(command, fault, rank, world, port, log)) for rank, log in enumerate(logs)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    hanging = [process for process in started if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging, "\n".join(log.read_text() for log in logs)
    return Ended([process.exitcode or 0 for process in started], [log.read_text() for log in logs])


def work(command: list[str], fault: Fault | None, rank: int, world: int, port: str, log: Path) -> None:
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
    runpy.run_path(str(ROOT / "examples" / command[0]), run_name="__main__")


# --- faults, as partial functions of their arguments


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_step(stage: str, step: int, rank: int = 0) -> None:
    """SIGKILL between the forward and the backward pass of a step, whose clips the support set has taken in."""
    from uamix_hf import UaMixTrainer

    compute_loss = UaMixTrainer.compute_loss

    def compute_loss_and_die(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(self, *args, **kwargs)
        if (self.model.stage, self.state.global_step + 1, self.args.process_index) == (stage, step, rank):
            die()
        return loss

    UaMixTrainer.compute_loss = compute_loss_and_die  # type: ignore[method-assign]


def kill_in_save(file: str) -> None:
    """SIGKILL when half of a checkpoint's file, `checkpoint-6/optimizer.pt`, is written."""
    import torch
    from transformers import TrainerState, modeling_utils

    def die_halfway(write: Callable) -> Callable:
        def write_half(data: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            write(data, path, *args, **kwargs)
            if str(path).endswith(f"/{file}"):
                os.truncate(path, os.path.getsize(path) // 2)
                die()

        return write_half

    modeling_utils.safe_save_file = die_halfway(modeling_utils.safe_save_file)
    torch.save = die_halfway(torch.save)
    TrainerState.save_to_json = die_halfway(TrainerState.save_to_json)  # type: ignore[method-assign]


def refuse_bytes(step: int, most: int) -> None:
    """From the save of a step on, the system lets no file grow beyond this many bytes."""
    from transformers import Trainer

    save = Trainer._save_checkpoint

    def save_on_full_disk(self: Any, *args: Any) -> None:
        if self.state.global_step == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        save(self, *args)

    Trainer._save_checkpoint = save_on_full_disk  # type: ignore[method-assign]


def spoil_clip(clip: int, after: int) -> None:
    """After so many steps of a stage, one clip's log-mels are NaN, as by a broken memory."""
    from uamix_hf.trainer import LengthBucketTrainer

    step = LengthBucketTrainer.training_step

    def spoilt_step(self: Any, model: Any, inputs: Any, *args: Any) -> Any:
        if self.state.global_step >= after:
            inputs["input_values"][inputs["sample_id"] == clip] = float("nan")
        return step(self, model, inputs, *args)

    LengthBucketTrainer.training_step = spoilt_step  # type: ignore[method-assign]


def terminate_in_step(step: int, stage: str | None = None, rank: int = 0) -> None:
    """SIGTERM, as a scheduler sends it, within a step (of a stage of tuning)."""
    from uamix_hf.trainer import LengthBucketTrainer

    training_step = LengthBucketTrainer.training_step

    def terminated_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        place = (getattr(self.model, "stage", None), self.state.global_step + 1, self.args.process_index)
        if place == (stage, step, rank):
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(self, *args, **kwargs)

    LengthBucketTrainer.training_step = terminated_step  # type: ignore[method-assign]
