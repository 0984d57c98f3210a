"""Ways of computing the same faster, each against the plain way, as a share of the time of the job that it is part of.

A share is (plain - other) / job, round by round. What saves less than 5 % is not worth its code: of these, the package
has AdamW in one kernel, which is the Trainer's default, alone. Widths of the base preset; jobs are a step of tuning
with 2 layers, a step of pretraining with 3 layers and 4 of a local decoder, and the encoder without gradient with 3.

python benchmarks/levers.py
"""

import copy
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from compare import Row, interleaved, parse, report
from mixed_batches import EPOCH, MIXED, mixed_batches
from torch import nn
from torch.nn import functional as F
from training_steps import describe, make_clips, make_encoder, make_model, trainers_optimizer, training_step

from uamix_hf import AudioMAEConfig, AudioMAEForPreTraining, AudioMAEModel
from uamix_hf.training.augmentations import two_views

BATCH, SECONDS = 8, 10
LAYERS = {"num_hidden_layers": 3, "decoder_num_hidden_layers": 4, "decoder_type": "local"}
SMALL = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 96, "decoder_hidden_size": 32}
SMALL |= {"decoder_num_attention_heads": 4, "decoder_intermediate_size": 64}
Works = dict[str, Callable[[], Any]]


class OneProduct(nn.Module):
    """Attention whose queries, keys and values are one product, with the weights of `attention`."""

    def __init__(self, attention: nn.Module):
        super().__init__()
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.weight = torch.cat([part.weight for part in parts])
        self.bias = torch.cat([part.bias for part in parts])
        self.head_dim, self.o_proj = attention.head_dim, attention.o_proj

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, None]:
        together = F.linear(hidden_states, self.weight, self.bias)
        query, key, value = (one.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for one in together.chunk(3, -1))
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.o_proj(output.transpose(1, 2).flatten(2)), None


def with_one_product(encoder: AudioMAEModel) -> AudioMAEModel:
    """A copy whose layers attend by [`OneProduct`]."""
    changed = copy.deepcopy(encoder)
    for layer in changed.layers:
        layer.attention = OneProduct(layer.attention)
    return changed


def project_all(projection: nn.Conv2d, log_mels: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Tokens (batch, kept, width) of the patches `kept` (batch, number), of which all are projected."""
    tokens = projection(log_mels[:, None]).flatten(2).transpose(1, 2)
    return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))


def project_visible(projection: nn.Conv2d, log_mels: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The same, of which no other is projected."""
    side = projection.kernel_size[0]
    patches = log_mels.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(3).flatten(1, 2)
    visible = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[2]))
    return F.linear(visible, projection.weight.flatten(1), projection.bias)


def clip_by_clip(encoder: AudioMAEModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Embeddings of a batch, of which each clip passes alone, without its padding."""
    clips = []
    for values, mask in zip(batch["input_values"], batch["attention_mask"], strict=True):
        frames = -(-int(mask.sum()) // encoder.config.patch_size) * encoder.config.patch_size
        clips.append(encoder(values[None, :frames], mask[None, :frames]).pooler_output)
    return torch.cat(clips)


def embed(encoder: AudioMAEModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return encoder(batch["input_values"], batch["attention_mask"]).pooler_output


def without_gradient(work: Callable[..., Any], *inputs: Any) -> Callable[[], Any]:
    return partial(torch.no_grad()(work), *inputs)


def tuning(small: bool, batch: int) -> tuple[str, Works, list[tuple[str, str, str]]]:
    """The job, its works, and of each lever what it is, the plain work and the other one."""
    model = make_model(small, 2)
    clips = make_clips(batch, SECONDS)
    lengths, patch, longest = clips["attention_mask"].sum(dim=1), model.adapter.patch, model.adapter.max_frames

    def update(make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]) -> Callable[[], Any]:
        weights = [nn.Parameter(weight.clone()) for weight in model.parameters() if weight.requires_grad]
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        return make(weights).step

    def views() -> None:
        torch.manual_seed(0)
        for view in two_views(clips["input_values"], lengths, model.config, patch, longest, "log-mel")[:2]:
            model.normalize(view)

    works = {
        "job": partial(training_step(model, lambda batch: model(**batch).loss), clips),
        "plain AdamW": update(torch.optim.AdamW),
        "fused AdamW": update(trainers_optimizer),
        "views": without_gradient(views),
        "no views": lambda: None,
    }
    levers = [
        ("AdamW in one kernel, as the Trainer's", "plain AdamW", "fused AdamW"),
        ("views and their normalisation for nothing, which half precision cannot surpass", "views", "no views"),
    ]
    return f"tuning step, {describe(model, batch, SECONDS)}", works, levers


def pretraining(small: bool, batch: int) -> tuple[str, Works, list[tuple[str, str, str]]]:
    config = AudioMAEConfig.preset("base", **(LAYERS | (SMALL if small else {})))
    model = AudioMAEForPreTraining(config).train()
    optimizer = trainers_optimizer(model.parameters())
    log_mels = make_clips(batch, SECONDS)["input_values"]
    tokens = log_mels.shape[1] * log_mels.shape[2] // config.patch_size**2
    kept = torch.rand(batch, tokens).argsort(dim=1)[:, : int(tokens * (1 - config.mask_ratio))]
    projection = copy.deepcopy(model.audio_mae.embeddings.patch_embeddings.projection)

    def step() -> None:
        model(log_mels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def projected(work: Callable[..., torch.Tensor]) -> Callable[[], Any]:
        return lambda: work(projection, log_mels, kept).sum().backward()

    works = {"job": step, "all": projected(project_all), "visible": projected(project_visible)}
    levers = [("visible patches projected alone", "all", "visible")]
    shape = f"hidden size {config.hidden_size}, {config.num_hidden_layers} layers + {config.decoder_num_hidden_layers}"
    return f"pretraining step, {batch} clips of {SECONDS} s, {shape} of decoder", works, levers


def embedding(small: bool, batch: int) -> tuple[str, Works, list[tuple[str, str, str]]]:
    encoder = make_encoder(small, 3).eval()
    mixed = mixed_batches(batch, *MIXED["1 to 10 s"])[2]  # the middle one
    works = {
        "job": without_gradient(embed, encoder, mixed),
        "one product": without_gradient(embed, with_one_product(encoder), mixed),
        "clip by clip": without_gradient(clip_by_clip, encoder, mixed),
    }
    levers = [
        ("queries, keys and values as one product", "job", "one product"),
        ("clip by clip, without padding", "job", "clip by clip"),
    ]
    shape = f"hidden size {encoder.config.hidden_size}, {encoder.config.num_hidden_layers} layers"
    return f"encoder, forward, one of {EPOCH} batches by length of {batch} clips of 1 to 10 s, {shape}", works, levers


def saved_row(case: str, job: Sequence[float], plain: Sequence[float], other: Sequence[float]) -> Row:
    """Share of the job that is saved, round by round."""
    shares = [(slow - fast) / whole for whole, slow, fast in zip(job, plain, other, strict=True)]
    words = [f"{1000 * statistics.median(side):,.4g} ms" for side in (other, plain)]
    return Row(case, *words, statistics.median(shares), min(shares), max(shares))


def main() -> None:
    args = parse()
    torch.manual_seed(0)
    rows = []
    for make in (tuning, pretraining, embedding):
        job, works, levers = make(args.small, 2 if args.small else BATCH)
        seconds = interleaved(works, args.repeats)
        rows += [
            saved_row(f"{job}: {what}", *(seconds[name] for name in ("job", plain, other)))
            for what, plain, other in levers
        ]
    report("levers", "the plain way; the value is the saved share of the job", rows, args)


if __name__ == "__main__":
    main()
