"""Tokens of a step of masked pretraining in a second, against transformers' ViTMAEForPreTraining.

Encoder and decoder are of the same size, 80 % of the tokens are removed, and a step is forward, backward and AdamW.
ViTMAE takes square images only, here of one channel and 23 x 23 patches; a clip of 1056 frames has 66 x 8, one less.

python benchmarks/pretraining.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from compare import interleaved, parse, ratio_row, report
from transformers import PreTrainedModel, ViTMAEConfig, ViTMAEForPreTraining

from uamix_hf import AudioMAEConfig, AudioMAEForPreTraining

PEER = "ViTMAEForPreTraining"


@dataclass(frozen=True)
class Case:
    """Sizes of a comparison: `frames` x `mel_bins` for ours, a square of `image_size` for the peer."""

    size: dict[str, Any]
    batch: int
    frames: int
    mel_bins: int
    image_size: int

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of a batch, of either side."""
        ours, peer = self.frames * self.mel_bins // 16**2, self.image_size**2 // 16**2
        return {"ours": self.batch * ours, PEER: self.batch * peer}


BASE = Case(
    {
        "hidden_size": 768,
        "num_hidden_layers": 3,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "decoder_hidden_size": 512,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 16,
        "decoder_intermediate_size": 2048,
    },
    batch=8,
    frames=1056,
    mel_bins=128,
    image_size=368,
)
SMALL = Case(
    {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "decoder_hidden_size": 32,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 64,
    },
    batch=2,
    frames=48,
    mel_bins=128,
    image_size=80,
)


def models(case: Case) -> tuple[AudioMAEForPreTraining, ViTMAEForPreTraining]:
    """Ours and ViTMAE with random weights."""
    common = case.size | {"mask_ratio": 0.8, "norm_pix_loss": True, "layer_norm_eps": 1e-6}
    ours = AudioMAEConfig(**common, num_mel_bins=case.mel_bins, max_length=case.frames, decoder_type="global")
    peer = ViTMAEConfig(**common, image_size=case.image_size, patch_size=16, num_channels=1)
    return AudioMAEForPreTraining(ours), ViTMAEForPreTraining(peer)


def inputs(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch for ours (batch, frames, mel_bins) and for ViTMAE (batch, 1, side, side)."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(case.batch, case.frames, case.mel_bins, generator=generator)
    return clips, torch.randn(case.batch, 1, case.image_size, case.image_size, generator=generator)


def training_step(model: PreTrainedModel, **batch: torch.Tensor) -> Callable[[], float]:
    """A step on a batch, always the same one; a call takes it and returns the loss before it."""
    weights = [weight for weight in model.train().parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05)

    def step() -> float:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def main() -> None:
    args = parse()
    case = SMALL if args.small else BASE
    (ours, peer), (clips, images) = models(case), inputs(case)
    work = {"ours": training_step(ours, input_values=clips), PEER: training_step(peer, pixel_values=images)}
    seconds = interleaved(work, args.repeats)
    per_token = {name: [duration / case.tokens[name] for duration in seconds[name]] for name in work}
    size = case.size
    shape = (
        f"{size['num_hidden_layers']} + {size['decoder_num_hidden_layers']} layers, "
        f"hidden size {size['hidden_size']} + {size['decoder_hidden_size']}, batch of {case.batch}"
    )
    rows = [ratio_row(f"step, {shape}", per_token, 1, "tokens", bar=1.0)]
    report("pretraining", f"transformers' {PEER}", rows, args)


if __name__ == "__main__":
    main()
