"""Plots show the original, the visible patches and the reconstruction; plotting changes nothing else."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_sounds import EXTRACTOR

from uamix_hf.pretraining import HeldOutCollator, reconstructions
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


def test_each_evaluation_has_a_plot_and_a_step_only_one(make_trainer, clips, tmp_path: Path, monkeypatch) -> None:
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(max_steps=3, **steps)
    logged = []
    monkeypatch.setattr(reconstructions, "log_image", lambda callbacks, *image: logged.append(image))
    trainer.add_callback(ReconstructionCallback(trainer, [clips[0]]))
    trainer.train()
    trainer.evaluate()
    folder = tmp_path / "run" / "reconstructions"
    assert logged == [("reconstructions", folder / f"step-{step}.png", step) for step in (1, 2, 3)]


def test_tensorboards_file_holds_the_plots(make_trainer, clips, tmp_path: Path) -> None:
    trainer = make_trainer(max_steps=2, save_strategy="steps", save_steps=1, report_to="tensorboard")
    trainer.add_callback(ReconstructionCallback(trainer, [clips[0]]))
    trainer.train()
    (folder,) = (tmp_path / "run" / "runs").iterdir()
    images = EventAccumulator(str(folder)).Reload().Images("reconstructions")
    assert [image.step for image in images] == [1, 2]
    for image in images:
        saved = imread(tmp_path / "run" / "reconstructions" / f"step-{image.step}.png")[..., :3]
        pixels = imread(io.BytesIO(image.encoded_image_string))
        assert pixels.shape == saved.shape == (image.height, image.width, 3)
        np.testing.assert_allclose(pixels, saved, atol=1 / 255)
