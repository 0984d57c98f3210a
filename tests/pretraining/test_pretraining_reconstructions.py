"""Plots show the original, the visible patches and the reconstruction; plotting changes nothing else."""

import importlib.util
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from toy_sounds import EXTRACTOR
from transformers.integrations import TensorBoardCallback, WandbCallback, integration_utils

from uamix_hf.pretraining import HeldOutCollator
from uamix_hf.pretraining.reconstructions import ReconstructionCallback, plot_reconstructions, reconstruct, unpatchify
from uamix_hf.pretraining.trainer import of_model


@pytest.fixture
def batch(clips, make_model):
    return HeldOutCollator(EXTRACTOR, make_model().config)([clips[row] for row in range(3)])


def test_unpatchify_undoes_patchify(make_model) -> None:
    values = torch.randn(2, 48, 32)
    assert torch.equal(unpatchify(make_model().patchify(values), 2), values)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_a_perfect_prediction_is_the_original_and_a_wrong_one_shows_where_patches_were_removed(
    make_model, batch, norm_pix_loss: bool
) -> None:
    model = make_model(norm_pix_loss=norm_pix_loss).eval()
    target = model.targets(batch["input_values"])
    sound = batch["attention_mask"][..., None].expand_as(batch["input_values"]).bool()
    for error in (0.0, 1.0):
        hook = model.decoder.register_forward_hook(lambda *call, error=error: (target + error, None))
        reconstructed, removed = reconstruct(model, batch)
        hook.remove()
        difference = reconstructed - batch["input_values"]
        if error == 0:
            torch.testing.assert_close(reconstructed[sound], batch["input_values"][sound], atol=1e-4, rtol=0)
        assert (difference[~removed] == 0).all()
        # Whole patches of 16 x 16 are removed, and the rest of the mask is the model's own.
        outputs = model(**of_model(batch))
        grid = removed[:, ::16, ::16]
        assert torch.equal(grid.repeat_interleave(16, 1).repeat_interleave(16, 2), removed)
        assert torch.equal(grid.flatten(1), outputs.mask > 0)
    spread = model.patchify(batch["input_values"]).std(dim=-1) if norm_pix_loss else torch.ones(len(reconstructed), 1)
    expected = spread[..., None].expand(-1, outputs.mask.shape[1], 256)
    torch.testing.assert_close(difference[removed], unpatchify(expected, 2)[removed], atol=1e-3, rtol=0)


def test_the_plot_has_seconds_mel_bins_and_the_log_mels_of_each_clip(make_model, batch) -> None:
    reconstructed, removed = reconstruct(make_model().eval(), batch)
    figure = plot_reconstructions(EXTRACTOR, batch, reconstructed, removed)
    panels = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
    assert len(panels) == 9 and [axis.get_title() for axis in panels[:3]] == ["original", "visible", "reconstructed"]
    assert panels[0].get_ylabel() == "mel bin" and panels[-1].get_xlabel() == "s"
    for row in range(3):
        frames = int(batch["attention_mask"][row].sum())
        original, visible, result = (panels[3 * row + column].images[0] for column in range(3))
        raw = batch["input_values"][row, :frames].numpy() * 2 * EXTRACTOR.std + EXTRACTOR.mean
        np.testing.assert_allclose(original.get_array(), raw.T, atol=1e-4)
        assert original.get_extent() == pytest.approx([0, frames / 100, 0, 32])
        hidden = np.ma.getmaskarray(visible.get_array())
        assert np.array_equal(hidden, removed[row, :frames].numpy().T)
        np.testing.assert_allclose(result.get_array()[~hidden], raw.T[~hidden], atol=1e-4)
        assert {image.get_clim() for image in (visible, result)} == {original.get_clim()}


def test_every_checkpoint_has_a_plot_and_training_goes_on_as_without(make_trainer, clips, tmp_path: Path) -> None:
    weights = []
    for folder, draws in (("with", True), ("without", False)):
        trainer = make_trainer(
            max_steps=4, save_strategy="steps", save_steps=2, learning_rate=1e-3, output_dir=str(tmp_path / folder)
        )
        if draws:
            trainer.add_callback(ReconstructionCallback(trainer, [clips[0], clips[1]]))
        trainer.train()
        assert trainer.model.training
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    plots = sorted((tmp_path / "with" / "reconstructions").iterdir())
    assert [path.name for path in plots] == ["step-2.png", "step-4.png"]
    first, second = (imread(path) for path in plots)
    assert first.shape == second.shape and first.shape[1] > 1000 and not np.array_equal(first, second)
    left = slice(0, first.shape[1] // 3)  # the original is the same each time
    np.testing.assert_allclose(first[:, left], second[:, left], atol=0.02)


class Writer:
    """Keeps what a TensorBoard writer is given."""

    def __init__(self, *args, **kwargs):
        self.images: list[tuple] = []

    def add_image(self, tag, pixels, step, dataformats) -> None:
        self.images.append((tag, np.asarray(pixels), step, dataformats))

    def add_text(self, *args) -> None: ...
    def add_scalar(self, *args) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


def test_tensorboard_gets_the_plots_through_the_trainers_own_writer(
    make_trainer, clips, monkeypatch, tmp_path: Path
) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: True)
        module = types.ModuleType("tensorboardX")
        module.SummaryWriter = Writer
        monkeypatch.setitem(__import__("sys").modules, "tensorboardX", module)
    writer = Writer()
    trainer = make_trainer(max_steps=2, save_strategy="steps", save_steps=1)
    trainer.add_callback(TensorBoardCallback(tb_writer=writer))
    trainer.add_callback(ReconstructionCallback(trainer, [clips[0]]))
    trainer.train()
    assert [(tag, step, layout) for tag, _, step, layout in writer.images] == [
        ("reconstructions", step, "HWC") for step in (1, 2)
    ]
    for _, pixels, step, _ in writer.images:
        saved = imread(tmp_path / "run" / "reconstructions" / f"step-{step}.png")
        assert np.array_equal(pixels, saved[..., :3])


def test_a_real_tensorboard_file_holds_the_plots(make_trainer, clips, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    trainer = make_trainer(max_steps=2, save_strategy="steps", save_steps=1)
    trainer.add_callback(TensorBoardCallback(SummaryWriter(str(tmp_path / "board"))))
    trainer.add_callback(ReconstructionCallback(trainer, [clips[0]]))
    trainer.train()
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [image.step for image in board.Images("reconstructions")] == [1, 2]


def test_wandb_gets_the_plots_with_the_step_that_its_other_figures_have(make_trainer, clips, monkeypatch) -> None:
    """The package is not installed here: a stand-in of what is called of it."""
    logged = []
    module = types.ModuleType("wandb")
    module.Image, module.log = (lambda path: ("image", path)), logged.append
    monkeypatch.setitem(__import__("sys").modules, "wandb", module)
    trainer = make_trainer(max_steps=1, save_strategy="steps", save_steps=1)
    plot = ReconstructionCallback(trainer, [clips[0]])
    trainer.callback_handler.callbacks.append(object.__new__(WandbCallback))
    plot.track(Path("step-7.png"), 7)
    assert logged == [{"reconstructions": ("image", "step-7.png"), "train/global_step": 7}]
