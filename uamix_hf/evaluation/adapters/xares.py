"""Encoders in X-ARES, "eXtensive Audio Representation and Evaluation Suite" (Zhang et al. 2025, arXiv 2505.16369).

X-ARES takes an encoder by a file, from which it makes the one class whose name ends in `Encoder`, and caches embeddings
by the name of the class. So each encoder is a class in a file of its own:

    from uamix_hf.evaluation.adapters import xares

    class TunedEncoder(xares.XaresEncoder):
        def __init__(self):
            super().__init__("tuned")

    python -m xares.run --max-jobs 1 tuned_encoder.py src/tasks/*.py
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from ...embedding import AudioEmbedder


class XaresEncoder(nn.Module):
    """The frames of an encoder, as `xares.audio_encoder_checker` asks for them.

    `sampling_rate` is the encoder's in Hz, `output_dim` the dimensions of a frame, and `hop_size_in_ms` the time from
    frame to frame.

    Args:
        name_or_path: Folder or Hub repository of an encoder.
        **kwargs: Keywords of [`AudioEmbedder.from_pretrained`], such as `embedding_layer`.

    Raises:
        OSError: No such folder or repository.
    """

    def __init__(self, name_or_path: str, **kwargs: Any):
        super().__init__()
        self.embedder = AudioEmbedder.from_pretrained(name_or_path, **kwargs)
        self.encoder = self.embedder.model  # so that `to` moves it
        self.sampling_rate = self.embedder.feature_extractor.sampling_rate
        second: Any = self.embedder.encode_frames(np.zeros(self.sampling_rate, np.float32))
        self.output_dim = second.embeddings.shape[1]
        self.hop_size_in_ms = 1000 * self.embedder.frame_hop

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Computes the frames of each clip, also of those that are longer than the encoder's window.

        X-ARES pads the clips of a batch with zeros and does not say from where on, so that padding counts as silence.

        Args:
            audio: Clips (batch, samples) in [-1, 1], at `sampling_rate` Hz; or one clip (samples,).

        Returns:
            (batch, frames, output_dim) float32, on the device of the audio.
        """
        clips = list(torch.atleast_2d(audio).float().cpu().numpy())
        frames: Any = self.embedder.encode_frames(clips, progress_bar=False)
        return torch.from_numpy(np.stack([one.embeddings for one in frames])).to(audio.device)


__all__ = ["XaresEncoder"]
