"""Images reach the trackers through transformers' own callbacks, during training and after it."""

import io
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread, imsave
from processes import run_code
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

from uamix_hf.training.trackers import log_image, reports_images


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    imsave(tmp_path / "picture.png", pixels)
    return tmp_path / "picture.png"


def test_tensorboard_has_images_of_the_run_and_of_what_came_after_it(picture: Path, tmp_path: Path) -> None:
    args = TrainingArguments(str(tmp_path / "run"), report_to="none", use_cpu=True)
    callback, state, control = TensorBoardCallback(), TrainerState(), TrainerControl()
    callback.on_train_begin(args, state, control)
    log_image([callback], "picture", picture, 3)
    callback.on_train_end(args, state, control)
    log_image([callback], "picture", picture, 5)
    (folder,) = (tmp_path / "run" / "runs").iterdir()
    found = [
        image
        for file in sorted(folder.glob("events*"))
        for image in EventAccumulator(str(file)).Reload().Images("picture")
    ]
    assert sorted(image.step for image in found) == [3, 5]
    for image in found:
        assert (image.height, image.width) == (20, 30)
        pixels = imread(io.BytesIO(image.encoded_image_string))
        np.testing.assert_allclose(pixels, imread(picture)[..., :3], atol=1 / 255)


def stand_in(kind: type, **attributes: Any) -> Any:
    callback = object.__new__(kind)
    vars(callback).update(attributes)
    return callback


def test_wandb_gets_images_with_the_step_of_its_other_figures(picture: Path, monkeypatch, caplog) -> None:
    """A stand-in of what is called of the package; the package itself is used below."""
    logged: list[dict] = []
    module: Any = types.ModuleType("wandb")
    module.Image, module.log, module.run = (lambda path: ("image", path)), logged.append, object()
    monkeypatch.setitem(__import__("sys").modules, "wandb", module)
    log_image([stand_in(WandbCallback)], "picture", picture, 7)
    assert logged == [{"picture": ("image", str(picture)), "train/global_step": 7}]
    module.run = None
    log_image([stand_in(WandbCallback)], "picture", picture, 8)
    assert len(logged) == 1 and "picture is left out" in caplog.text


class Client:
    """What is called of `mlflow.MlflowClient`."""

    logged: list[tuple] = []

    def log_image(self, run_id: str, image: np.ndarray, *, key: str, step: int) -> None:
        self.logged.append((run_id, image, key, step))


@pytest.mark.parametrize("active", [True, False], ids=["during training", "after it"])
def test_mlflow_gets_images_of_its_run(picture: Path, active: bool, monkeypatch) -> None:
    """A stand-in: the package needs an older pyarrow than is pinned."""
    monkeypatch.setattr(Client, "logged", [])
    run = types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))
    mlflow = types.SimpleNamespace(
        active_run=lambda: run if active else None, last_active_run=lambda: run, MlflowClient=Client
    )
    log_image([stand_in(MLflowCallback, _ml_flow=mlflow, _auto_end_run=False)], "picture", picture, 7)
    ((run_id, image, key, step),) = Client.logged
    assert (run_id, key, step) == ("abc", "picture", 7)
    assert image.dtype == np.uint8 and image.shape == (20, 30, 3)
    np.testing.assert_allclose(image / 255, imread(picture)[..., :3], atol=1e-6)


def test_other_callbacks_are_no_trackers_of_images(picture: Path) -> None:
    assert not reports_images([])
    assert reports_images([stand_in(WandbCallback)])
    log_image([], "picture", picture, 0)


WANDB = """
import os, sys
from pathlib import Path
os.environ.update(WANDB_MODE="offline", WANDB_DIR=sys.argv[3])  # the server of processes has an older environment
import numpy as np, wandb
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import WandbCallback
from uamix_hf.training.trackers import log_image

args = TrainingArguments(sys.argv[1], report_to="none", use_cpu=True)
callback, state, control = WandbCallback(), TrainerState(is_world_process_zero=True), TrainerControl()
callback.on_train_begin(args, state, control)
log_image([callback], "picture", sys.argv[2], 3)
callback.on_train_end(args, state, control)
log_image([callback], "picture", sys.argv[2], 5)
print("STEP", dict(wandb.run.summary)["train/global_step"], wandb.run.dir)
wandb.finish()
"""


@pytest.mark.slow
def test_wandbs_folder_of_an_offline_run_has_the_images(picture: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'uamix_hf[wandb]'")
    ended = run_code(WANDB, tmp_path, tmp_path / "run", picture, tmp_path)
    step, folder = ended.well().split("STEP")[-1].split("\n")[0].split()
    assert step == "5"
    images = sorted(Path(folder).rglob("*.png"))
    assert len(images) == 2
    for image in images:
        assert np.array_equal(imread(image), imread(picture))
