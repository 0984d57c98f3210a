"""One vector for each time token of an encoder, and the time that the token is of."""

from collections.abc import Generator, Iterable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from ..models.front_ends import FrontEnd
from .layers import EncoderError
from .pooling import whiten

# Poolings that are a mean of the tokens, and those of them that are one of each frequency band's.
MEANS, BAND_MEANS = ("mean", "mean_time", "mean_time_tokens"), ("mean_time", "mean_time_tokens")
# Number of the recording, number of the window in it.
Place = tuple[int, int]


class FrameEmbeddings(NamedTuple):
    """The frames of one recording.

    Args:
        embeddings: (frames, size) float32, one after the other in time.
        times: Centre of what each is computed from, without attention, in s from the start (frames,) float64.
    """

    embeddings: np.ndarray
    times: np.ndarray


class FrameTokens:
    """The part of an adapter that keeps the tokens apart in time.

    `base` is the encoder, `patch_shape` and `strides` are the (frames, mel bins) of a token, and from token to token.
    """

    base: PreTrainedModel
    patch_shape: tuple[int, int]
    strides: tuple[int, int]
    time_first: ClassVar[bool]

    def encode_frames(
        self: Any, input_values: torch.Tensor, lengths: torch.Tensor, padding_value: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes a vector for each time token, see [`AudioEmbedder.encode_frames`].

        Args:
            input_values: Normalised (batch, frames, mel bins).
            lengths: Frames of audio (batch,).
            padding_value: As in [`EncoderAdapter.encode`].

        Returns:
            Vectors (batch, times, size) float32, and the number of those with audio, which come first (batch,).

        Raises:
            EncoderError: The encoder returns other tokens than the patches of its input.
        """
        output, visible = self.run(input_values, lengths, 0.0, padding_value)
        valid = self.valid_tokens(lengths, self.max_frames, input_values.shape[2]) if visible is None else visible
        grid = self.token_grid(output.last_hidden_state.float(), valid)
        vectors = grid.flatten(2) if self.pooling in BAND_MEANS else grid.mean(dim=2)
        unpooled = getattr(output, "pooler_output", None) is None and self.settings.pooling is None
        whitening = self.read_settings(self.base).whitening
        if whitening is not None and (self.pooling in MEANS or unpooled):
            vectors = whiten(vectors, whitening)
        return vectors, self.time_tokens(lengths, valid)

    def token_grid(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """The tokens (batch, tokens, hidden) in time and frequency, without prefix tokens: (batch, time, mel, hidden).

        Args:
            hidden: Output of the embedding's layer.
            valid: Tokens of audio, 1 or 0 (batch, time, mel).

        Raises:
            EncoderError: There are other tokens than the patches of the input, after at most two prefix tokens.
        """
        time, mel = valid.shape[1:]
        prefix = hidden.shape[1] - time * mel
        if not 0 <= prefix <= 2:
            raise EncoderError(
                f"{type(self.base).__name__} returns {hidden.shape[1]} tokens, and its input has {time} x {mel} "
                "patches (time x mel), so that their times are unknown: register an adapter with its own token_grid."
            )
        patches = hidden[:, prefix:]
        return (
            patches.unflatten(1, (time, mel)) if self.time_first else patches.unflatten(1, (mel, time)).transpose(1, 2)
        )

    def time_tokens(self, lengths: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Number of times with audio (batch,).

        Args:
            lengths: Frames of audio (batch,).
            valid: Tokens of audio, 1 or 0 (batch, time, mel).
        """
        return valid[..., 0].sum(dim=1).long()

    def token_positions(self, count: int) -> np.ndarray:
        """Centre of what each of the first tokens in time is computed from, without attention, in frames.

        Args:
            count: Number of tokens.

        Returns:
            Positions (count,) float64; 0 is the first frame.
        """
        return np.arange(count) * self.strides[0] + (self.patch_shape[0] - 1) / 2


def token_seconds(front_end: FrontEnd, positions: np.ndarray, samples: int, frames: int) -> np.ndarray:
    """Times in s of positions in the frames of a clip: those of the centres of the frames' windows.

    Args:
        front_end: What computed the frames.
        positions: Positions in frames, of any shape; 0 is the first frame.
        samples: Samples of the clip.
        frames: Its frames.
    """
    if front_end.domain == "waveform":
        centre = front_end.frame_shift / 2
    else:
        made: Any = front_end
        centre = 0.0 if made.center else made.frame_length / 2
        before = max(1, made.filter_bank.frames(samples))
        if before < made.resample_below:  # to other frames, of which the first and the last stayed where they were
            positions = positions * (before - 1) / max(1, frames - 1)
    return (positions * front_end.frame_shift + centre) / front_end.sampling_rate


def clip_frames(
    adapter: FrameTokens, front_end: FrontEnd, values: torch.Tensor, lengths: torch.Tensor, samples: list[int]
) -> list[FrameEmbeddings]:
    """The frames of each clip of a batch.

    Args:
        adapter: The encoder's adapter.
        front_end: What computed the input.
        values: The input (clips, frames, bins).
        lengths: Frames of audio (clips,).
        samples: Samples of each clip.
    """
    vectors, counts = adapter.encode_frames(values, lengths, front_end.padding_value)
    sizes = zip(counts.tolist(), samples, lengths.tolist(), strict=True)
    times = [token_seconds(front_end, adapter.token_positions(count), *clip) for count, *clip in sizes]
    return [FrameEmbeddings(row[: len(clip)], clip) for row, clip in zip(vectors.cpu().numpy(), times, strict=True)]


def numbered(windows: Iterable[tuple[int, np.ndarray]]) -> Generator[tuple[Place, np.ndarray]]:
    """Numbers the windows of each recording, which come one after the other."""
    last, number = -1, 0
    for recording, window in windows:
        number = number + 1 if recording == last else 0
        last = recording
        yield (recording, number), window


def in_order(found: dict[Place, FrameEmbeddings], window_seconds: float) -> list[FrameEmbeddings]:
    """The frames of each recording, from those of its windows.

    Args:
        found: Frames of each window, with times from the start of the window.
        window_seconds: From the start of a window to the start of the next, in s.

    Raises:
        ValueError: Frames that are not finite.
    """
    recordings: dict[int, list[FrameEmbeddings]] = {}
    for (recording, number), (vectors, times) in sorted(found.items(), key=lambda item: item[0]):
        recordings.setdefault(recording, []).append(FrameEmbeddings(vectors, times + number * window_seconds))
    joined = [FrameEmbeddings(*map(np.concatenate, zip(*parts, strict=True))) for parts in recordings.values()]
    if damaged := [number for number, one in enumerate(joined) if not np.isfinite(one.embeddings).all()]:
        raise ValueError(
            f"Frames of {len(damaged)} of {len(joined)} recordings are not finite, the first of number {damaged[0]}: "
            "check the encoder's weights, or compute in float32."
        )
    return joined


__all__ = ["FrameEmbeddings", "FrameTokens", "Place", "clip_frames", "in_order", "numbered"]
