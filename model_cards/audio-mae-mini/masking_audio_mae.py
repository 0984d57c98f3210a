"""Which tokens of a clip count: tokens of padding, and tokens that masking and patchout drop."""

import torch
from transformers.utils.import_utils import is_tracing

from .configuration_audio_mae import AudioMAEConfig


def column_frames(attention_mask: torch.Tensor, config: AudioMAEConfig) -> torch.Tensor:
    """Splits a frame mask (batch, frames) by time column of patches: (batch, columns, patch_size)."""
    size, stride = config.patch_size, config.strides[0]
    return attention_mask.unflatten(1, (-1, size)) if stride == size else attention_mask.unfold(1, size, stride)


def frames_to_tokens(attention_mask: torch.Tensor, config: AudioMAEConfig) -> torch.Tensor:
    """Converts a frame mask (batch, frames) to a token mask (batch, tokens), bool.

    Any valid frame is enough; where patches overlap, one that no earlier patch covers, so that a clip has the same
    tokens alone and in a padded batch.
    """
    frames = column_frames(attention_mask.bool(), config)
    overlap = config.patch_size - config.strides[0]
    columns = frames[..., overlap:].any(-1)
    if overlap:
        columns = torch.cat([frames[:, :1].any(-1), columns[:, 1:]], dim=1)
    return columns.repeat_interleave(config.grid_size[1], dim=1)


def keep_least(noise: torch.Tensor, allowed: torch.Tensor | None, ratio: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Keeps the `int(n * (1 - ratio))` of each row's n allowed entries that have the least noise, at least 1.

    Args:
        noise: (batch, entries).
        allowed: (batch, entries) bool, None for all.
        ratio: Fraction to drop.

    Returns:
        Which entries are kept (batch, entries) bool, and the rank of each by its noise (batch, entries).
    """
    if allowed is None:
        keep = torch.full((len(noise), 1), max(1, int(noise.shape[1] * (1 - ratio))), device=noise.device)
    else:
        noise = noise.masked_fill(~allowed, torch.inf)
        keep = (allowed.sum(1, keepdim=True).double() * (1 - ratio)).long().clamp_min(1)
    rank = noise.argsort(dim=1).argsort(dim=1)
    return rank < keep, rank


def keep_grid(
    noise: torch.Tensor, valid: torch.Tensor | None, bands: int, time_ratio: float, mel_ratio: float
) -> torch.Tensor:
    """Keeps the tokens that are in a kept time column and in a kept frequency band.

    Args:
        noise: (batch, columns + bands).
        valid: (batch, tokens) bool or None; columns of padding are not kept.
        bands: Frequency bands of the token grid.
        time_ratio: Fraction of the time columns to drop.
        mel_ratio: Fraction of the frequency bands to drop.

    Returns:
        (batch, tokens) bool.
    """
    columns = noise.shape[1] - bands
    valid_columns = None if valid is None else valid.unflatten(1, (columns, bands)).any(dim=2)
    in_time, _ = keep_least(noise[:, :columns], valid_columns, time_ratio)
    in_mel, _ = keep_least(noise[:, columns:], None, mel_ratio)
    return (in_time[:, :, None] & in_mel[:, None]).flatten(1)


def drop_tokens(
    tokens: torch.Tensor,
    valid: torch.Tensor | None,
    bands: int,
    mask_ratio: float | None,
    time_ratio: float | None,
    mel_ratio: float | None,
    noise: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Drops whole time columns and frequency bands of each clip's grid, then a fraction of the remaining tokens.

    This is the masking of MAE (arXiv 2111.06377) and Audio-MAE (arXiv 2207.06405); of padded clips, only tokens of
    audio are kept.

    Args:
        tokens: (batch, tokens, width), time-major with `bands` frequency bands.
        valid: (batch, tokens) bool or None.
        bands: Frequency bands of the token grid.
        mask_ratio: Fraction of the tokens to drop, None for none.
        time_ratio: Fraction of the time columns to drop, None for none.
        mel_ratio: Fraction of the frequency bands to drop, None for none.
        noise: (batch, columns + bands) if columns or bands are dropped, followed by (batch, tokens) if `mask_ratio` is
            given; uniform if None.

    Returns:
        Visible tokens (batch, most kept, width), which of them count (batch, most kept) or None if all do, the mask
        (batch, tokens) with 1 = removed, and ids_restore (batch, tokens).

    Raises:
        ValueError: Noise of another shape.
    """
    batch, length, _ = tokens.shape
    grid = length // bands + bands if time_ratio is not None or mel_ratio is not None else 0
    size = grid + (length if mask_ratio is not None else 0)
    if noise is None:
        noise = torch.rand(batch, size, dtype=torch.float32, device=tokens.device)
    elif noise.shape != (batch, size):
        raise ValueError(f"noise has shape {tuple(noise.shape)}, expected {(batch, size)}: one value per token, or "
                         "per time column and frequency band.")  # fmt: skip
    allowed, kept_of_grid = valid, length
    if grid:
        time_ratio, mel_ratio = time_ratio or 0.0, mel_ratio or 0.0
        allowed = keep_grid(noise[:, :grid], valid, bands, time_ratio, mel_ratio)
        kept_of_grid = max(1, int(length // bands * (1 - time_ratio))) * max(1, int(bands * (1 - mel_ratio)))
        allowed = allowed if valid is None else allowed & valid
    # Without a mask_ratio, the tokens that the grid leaves keep their order.
    in_order = torch.arange(length, dtype=torch.float32, device=tokens.device).expand(batch, -1)
    kept, ids_restore = keep_least(in_order if mask_ratio is None else noise[:, grid:], allowed, mask_ratio or 0.0)
    # A clip without padding keeps this many, all others fewer. The exact number has to be read from the device, which a
    # compiled graph, whose shapes must not depend on values, cannot do.
    most = max(1, int(kept_of_grid * (1 - (mask_ratio or 0.0))))
    if valid is not None and not is_tracing(tokens):
        most = int(kept.sum(1).max())
    ids_keep = ids_restore.argsort(dim=1)[:, :most]
    visible = tokens.gather(1, ids_keep[..., None].expand(-1, -1, tokens.shape[-1]))
    if valid is None:
        return visible, None, (~kept).to(tokens.dtype), ids_restore
    return visible, kept.gather(1, ids_keep), (~kept & valid).to(tokens.dtype), ids_restore
