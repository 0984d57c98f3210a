"""The map of the embeddings for the trackers that a run reports to."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from transformers import TrainerCallback

from ..training.trackers import log_image, reports_images

logger = logging.getLogger(__name__)


@contextmanager
def map_for_trackers(callbacks: Sequence[TrainerCallback], step: int) -> Iterator[Path | None]:
    """Folder for the report of an evaluation, whose map of the embeddings is logged at the end; it is removed then.

    None if the callbacks report to no tracker of images, or without matplotlib, of which a warning says so.

    Args:
        callbacks: Callbacks of the trainer; none in other processes than the main one.
        step: Step of training.
    """
    if not reports_images(callbacks):
        yield None
        return
    if find_spec("matplotlib") is None:
        logger.warning("No map of the embeddings for trackers: it needs matplotlib, pip install 'uamix_hf[demo]'.")
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        if (path := Path(folder, "embeddings.png")).exists():  # not of clips with several labels
            log_image(callbacks, "embeddings", path, step)


__all__ = ["map_for_trackers"]
