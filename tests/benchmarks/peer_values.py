"""What the peers of benchmarks/audio_mae.py and lightly_nnclr.py compute, and ours or a closed form on the same, as
JSON to the standard output: in a process of its own, since it puts torchvision beside transformers."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import audio_mae  # noqa: E402
import lightly_nnclr  # noqa: E402
from audio_mae_peer import PeerForClassification, PeerForPreTraining  # noqa: E402

from uamix_hf import AudioMAEForAudioClassification, AudioMAEForPreTraining, AudioMAEModel  # noqa: E402


def copy_linears(source: nn.Module, target: nn.Module, names: dict[str, str]) -> None:
    """Weights of parts of `source`, by their names in `target`; several with a comma are one above the other."""
    for name, ours in names.items():
        parts = [source.get_submodule(part).state_dict() for part in ours.split(",")]
        together = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        target.get_submodule(name).load_state_dict(together)


ENCODER_LAYER = {
    "norm1": "layernorm_before",
    "attn.qkv": "attention.q_proj,attention.k_proj,attention.v_proj",
    "attn.proj": "attention.o_proj",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
WINDOW_LAYER = ENCODER_LAYER | {"attn.meta_mlp.fc1": "attention.bias_fc1", "attn.meta_mlp.fc2": "attention.bias_fc2"}


@torch.no_grad()
def copy_encoder(ours: AudioMAEModel, peer: nn.Module) -> None:
    copy_linears(ours, peer, {"patches.proj": "embeddings.patch_embeddings.projection"})
    peer.cls_token.copy_(ours.embeddings.cls_token)
    peer.positions.copy_(ours.embeddings.position_embeddings[:, 1:])
    for own, theirs in zip(ours.layers, peer.blocks, strict=True):
        copy_linears(own, theirs, ENCODER_LAYER)


@torch.no_grad()
def copy_decoder(ours: AudioMAEForPreTraining, peer: PeerForPreTraining) -> None:
    decoder = ours.decoder
    copy_linears(ours, peer, {"norm": "audio_mae.layernorm", "embed": "decoder.embed", "predict": "decoder.predict"})
    copy_linears(ours, peer, {"decoder_norm": "decoder.layernorm"})
    peer.mask_token.copy_(decoder.mask_token)
    peer.positions.copy_(decoder.position_embeddings[:, 1:])
    for own, theirs in zip(decoder.layers, peer.blocks, strict=True):
        own.attention.tau.uniform_(0.05, 1)
        copy_linears(own, theirs, WINDOW_LAYER)
        theirs.attn.logit_scale.copy_(-own.attention.tau.log())


def randomised(model: nn.Module) -> nn.Module:
    """With biases, norms and a head that matter."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


def pretraining() -> dict[str, Any]:
    """Loss, and gradients of the first and the last weights, of ours and of the peer."""
    config = audio_mae.make_config(True)
    ours, peer = randomised(AudioMAEForPreTraining(config)), PeerForPreTraining(config).eval()
    copy_encoder(ours.audio_mae, peer.encoder)
    copy_decoder(ours, peer)
    log_mels, noise = torch.randn(2, 1024, 128), torch.rand(2, 512)
    losses = [ours(log_mels, noise=noise).loss, peer(log_mels, noise)]
    for loss in losses:
        loss.backward()
    first = [ours.audio_mae.embeddings.patch_embeddings.projection.weight, peer.encoder.patches.proj.weight]
    last = [ours.decoder.predict.weight, peer.predict.weight]
    gradients = [[weight.grad.flatten()[:50].tolist() for weight in pair] for pair in (first, last)]
    return {"losses": [loss.item() for loss in losses], "gradients": gradients}


def fine_tuning() -> dict[str, Any]:
    config = audio_mae.make_config(True, **audio_mae.FINE_TUNING)
    ours, peer = randomised(AudioMAEForAudioClassification(config)), PeerForClassification(config).eval()
    copy_encoder(ours.audio_mae, peer.encoder)
    copy_linears(ours, peer, {"fc_norm": "audio_mae.fc_norm", "head": "classifier"})
    log_mels, labels = torch.randn(2, 1024, 128), (torch.rand(2, 527) < 0.5).float()
    return {"losses": [ours(log_mels, labels=labels).loss.item(), peer(log_mels, labels).item()]}


def tokens_of_steps() -> dict[str, Any]:
    """Tokens that the first block reads in each step of audio_mae.py, ours and the peer's; and whether losses fall."""
    seen: dict[str, Any] = {"ours": [], "peer": []}
    made = {"ours": (AudioMAEForPreTraining, AudioMAEForAudioClassification)}
    made["peer"] = (PeerForPreTraining, PeerForClassification)
    for side, classes in made.items():
        for kind in classes:
            build = kind.__init__

            def watched(self: Any, config: Any, side: str = side, build: Any = build) -> None:
                build(self, config)
                first = self.audio_mae.layers[0] if side == "ours" else self.encoder.blocks[0]
                first.register_forward_pre_hook(lambda _, args: seen[side].append(list(args[0].shape[:2])))

            kind.__init__ = watched
    work = audio_mae.sides(True, 2)
    seen["names"] = list(work)
    for pair in work.values():
        losses = [[one() for one in pair], [one() for one in pair]]
        seen.setdefault("fell", []).append([after[0] < before[0] for before, after in zip(*losses, strict=True)])
    return seen


def nt_xent(left: torch.Tensor, right: torch.Tensor, temperature: float) -> torch.Tensor:
    """SimCLR's loss (arXiv 2002.05709, equation 1) of pairs of rows."""
    both = F.normalize(torch.cat([left, right]), dim=1)
    exponentials = (both @ both.T / temperature).exp()
    count = len(left)
    terms = []
    for row in range(2 * count):
        partner = (row + count) % (2 * count)
        others = exponentials[row].sum() - exponentials[row, row]
        terms.append(-(exponentials[row, partner] / others).log())
    return torch.stack(terms).mean()


def nnclr() -> dict[str, Any]:
    """Loss of lightly's modules and by its formula, tokens of each pass, and what the bank took in."""
    peer, views = lightly_nnclr.make_peer(True)
    passes: list[list[int]] = []
    peer.encoder.layers[0].register_forward_pre_hook(lambda _, args: passes.append(list(args[0].shape[:2])))
    bank = peer.bank.bank.clone()
    with torch.no_grad():
        projected = [peer.projection(peer.encoder(input_values=view).pooler_output) for view in views.values()]
        predicted = [peer.prediction(one) for one in projected]
        passes.clear()
        loss = peer(**views)
    nearest = [bank[(F.normalize(one, dim=1) @ bank.T).argmax(dim=1)] for one in projected]
    temperature = peer.criterion.temperature
    by_formula = sum(nt_xent(*pair, temperature) for pair in zip(nearest, predicted[::-1], strict=True)) / 2
    taken = [float((peer.bank.bank[: len(projected[1])] - projected[1]).abs().max()), int(peer.bank.bank_ptr)]
    step = lightly_nnclr.training_step(peer, peer)
    return {
        "losses": [by_formula.item(), loss.item()],
        "passes": passes,
        "taken": taken,
        "steps": [step(**views) for _ in range(4)],
    }


def main() -> None:
    torch.manual_seed(0)
    values = {work.__name__: work() for work in (pretraining, fine_tuning, nnclr, tokens_of_steps)}
    print(json.dumps(values))


if __name__ == "__main__":
    main()
