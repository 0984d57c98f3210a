"""Images for the trackers that a run reports to, by transformers' own callbacks."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import TrainerCallback
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

logger = logging.getLogger(__name__)


def log_image(callbacks: Sequence[TrainerCallback], name: str, path: str | os.PathLike, step: int) -> None:
    """Logs an image to TensorBoard, W&B and MLflow, where a trainer reports to them, also after its training.

    Call it in the main process, after training began.

    Args:
        callbacks: Callbacks of the trainer, among them those of the trackers.
        name: Name of the image.
        path: PNG file.
        step: Step of training.
    """
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback):
            to_tensorboard(callback, name, path, step)
        elif isinstance(callback, WandbCallback):
            to_wandb(name, path, step)
        elif isinstance(callback, MLflowCallback):
            to_mlflow(callback, name, path, step)


def reports_images(callbacks: Sequence[TrainerCallback]) -> bool:
    """Whether a trainer reports to a tracker that is given images."""
    return any(isinstance(one, (TensorBoardCallback, WandbCallback, MLflowCallback)) for one in callbacks)


def to_tensorboard(callback: Any, name: str, path: str | os.PathLike, step: int) -> None:
    """Logs an image to TensorBoard, in the folder of the run, by a writer of its own once the run's is closed."""
    writer = callback.tb_writer or callback._SummaryWriter(log_dir=callback.logging_dir)
    writer.add_image(name, read_png(path), step, dataformats="HWC")
    if writer is callback.tb_writer:
        writer.flush()
    else:
        writer.close()


def to_wandb(name: str, path: str | os.PathLike, step: int) -> None:
    """Logs an image to the current run of W&B, with the step that its other figures have."""
    import wandb

    if wandb.run is None:
        logger.warning("The run of W&B is finished: the image %s is left out of it.", name)
        return
    wandb.log({name: wandb.Image(str(path)), "train/global_step": step})


def to_mlflow(callback: Any, name: str, path: str | os.PathLike, step: int) -> None:
    """Logs an image to the run of MLflow, which may have ended."""
    mlflow = callback._ml_flow
    run = mlflow.active_run() or mlflow.last_active_run()
    mlflow.MlflowClient().log_image(run.info.run_id, read_png(path), key=name, step=step)


def read_png(path: str | os.PathLike) -> np.ndarray:
    """Reads a PNG file as uint8 (height, width, 3)."""
    from matplotlib.image import imread

    return (imread(os.fspath(path))[..., :3] * 255).round().astype(np.uint8)


__all__ = ["log_image", "reports_images"]
