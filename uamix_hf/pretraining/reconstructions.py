"""Plots of what a masked autoencoder reconstructs; needs matplotlib (`pip install uamix_hf[demo]`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from transformers import TrainerCallback

from ..models.audio_mae.modeling_audio_mae import AudioMAEForPreTraining
from ..models.front_ends import FrontEnd
from ..training.trackers import log_image
from .trainer import PretrainingTrainer

# Width and height of a row of three spectrograms in inches, dots per inch, and the colour of masked patches.
WIDTH, HEIGHT, DPI, MASKED = 9.0, 1.9, 130, "0.75"


def unpatchify(patches: torch.Tensor, mel_bands: int) -> torch.Tensor:
    """Patches (batch, tokens, side**2) to log-mels (batch, frames, mel bins); undoes `patchify` of the model."""
    side = round(patches.shape[2] ** 0.5)
    return patches.unflatten(2, (side, side)).unflatten(1, (-1, mel_bands)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


@torch.no_grad()
def reconstruct(model: AudioMAEForPreTraining, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstruct the masked patches of a batch.

    With `norm_pix_loss`, the model predicts standardised patches. They are rescaled by mean and standard deviation of
    the true patches: the plot shows the shape of the prediction, not its level, which such a model does not predict.

    Args:
        model: In evaluation mode.
        batch: Of [`HeldOutCollator`].

    Returns:
        Log-mels (batch, frames, mel bins) float32, normalised as the input, with visible patches unchanged; and which
        values were masked, bool, of the same shape.
    """
    values = batch["input_values"]
    outputs = model(values, batch["attention_mask"], noise=batch["noise"], return_loss=False)
    patches, reconstructed = model.patchify(values), outputs.logits.float()
    if model.config.norm_pix_loss:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        reconstructed = reconstructed * (variance + 1e-6).sqrt() + mean
    masked = (outputs.mask > 0)[..., None].expand_as(patches)
    rows = model.config.grid_size[1]
    return unpatchify(torch.where(masked, reconstructed, patches), rows), unpatchify(masked, rows)


def plot_reconstructions(
    feature_extractor: FrontEnd,
    batch: Mapping[str, Any],
    reconstructed: torch.Tensor,
    masked: torch.Tensor,
) -> Figure:
    """Plot a row for each clip: the log-mel, its visible patches and the reconstruction, on one colour scale.

    Args:
        feature_extractor: Of the model, for its statistics.
        batch: Of [`HeldOutCollator`], on the CPU.
        reconstructed: Log-mels of [`reconstruct`], on the CPU.
        masked: Which values were masked, on the CPU.
    """
    scale, mean = feature_extractor.std_factor * feature_extractor.std, feature_extractor.mean
    clips = len(reconstructed)
    figure = Figure(figsize=(WIDTH, 0.5 + HEIGHT * clips), layout="constrained")
    axes = figure.subplots(clips, 3, squeeze=False, sharey=True)
    for row in range(clips):
        frames = int(batch["attention_mask"][row].sum())
        original, result = (
            part[row, :frames].numpy() * scale + mean for part in (batch["input_values"], reconstructed)
        )
        left = np.ma.masked_array(original, mask=masked[row, :frames].numpy())
        low, high = np.percentile(original, (1, 99.5))
        seconds = frames * feature_extractor.frame_shift / feature_extractor.sampling_rate
        for axis, panel in zip(axes[row], (original, left, result), strict=True):
            image = axis.imshow(panel.T, origin="lower", aspect="auto", interpolation="nearest", vmin=low, vmax=high,
                                cmap="magma", extent=(0, seconds, 0, original.shape[1]))  # fmt: skip
            axis.set_facecolor(MASKED)
        axes[row, 0].set_ylabel("mel bin")
        figure.colorbar(image, ax=axes[row], pad=0.01, label="log energy")
    for axis, title in zip(axes[0], ("original", "visible", "reconstructed"), strict=True):
        axis.set_title(title)
    for axis in axes[-1]:
        axis.set_xlabel("s")
    return figure


class ReconstructionCallback(TrainerCallback):
    """Plots reconstructions of a few clips at each evaluation and each checkpoint, with the same masks each time.

    Writes `output_dir/reconstructions/step-N.png`, once a step, and logs the plot to TensorBoard, W&B and MLflow where
    the trainer reports to them.

    Args:
        trainer: Trainer that the callback is added to.
        rows: Log-mels of [`cached_features`], plotted one below the other.
    """

    def __init__(self, trainer: PretrainingTrainer, rows: Sequence[Mapping[str, Any]]):
        self.trainer = trainer
        self.extractor = trainer.held_out_collator.feature_extractor
        self.batch = trainer.held_out_collator(rows)
        self.plotted = -1

    def on_evaluate(self, args, state, control, model: Any = None, **kwargs) -> None:
        self.plot(args, state, model)

    def on_save(self, args, state, control, model: Any = None, **kwargs) -> None:
        self.plot(args, state, model)

    def plot(self, args, state, model: Any) -> None:
        """Plots the reconstructions of the current step, unless it has been done."""
        if state.global_step == self.plotted:
            return
        self.plotted = state.global_step
        training = model.training
        model.eval()
        # On every process, though one plots: where weights are sharded, a forward pass takes all processes.
        reconstructed, masked = reconstruct(model, {name: part.to(args.device) for name, part in self.batch.items()})
        model.train(training)
        if not state.is_world_process_zero:
            return
        figure = plot_reconstructions(self.extractor, self.batch, reconstructed.cpu(), masked.cpu())
        path = Path(args.output_dir) / "reconstructions" / f"step-{state.global_step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI)
        log_image(self.trainer.callback_handler.callbacks, "reconstructions", path, state.global_step)


__all__ = ["ReconstructionCallback", "plot_reconstructions", "reconstruct", "unpatchify"]
