"""Bare training steps on synthetic clips, ours and the plain one, at sizes that several benchmarks share."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from plain_step import PlainStep
from torch import nn
from torch.nn import functional as F
from transformers import Trainer

from uamix_hf import AudioMAEConfig, AudioMAEModel, UaMixForContrastiveTuning
from uamix_hf.training.augmentations import two_views
from uamix_hf.tuning import UaMixTrainingArguments, mixing

MEL = 128
SMALL_ENCODER = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 96}
SMALL_HEADS = {"projector_hidden_size": 64, "projection_size": 32, "predictor_hidden_size": 96}
SMALL_QUEUE = 512


def make_encoder(small: bool, layers: int) -> AudioMAEModel:
    """The base preset with so many layers, random weights; `small` makes it narrow."""
    torch.manual_seed(0)
    narrow = SMALL_ENCODER if small else {}
    return AudioMAEModel(AudioMAEConfig.preset("base", num_hidden_layers=layers, **narrow))


def make_model(small: bool, layers: int, **config: Any) -> UaMixForContrastiveTuning:
    """Our model, its neighbour queue full of the clips 0, 1, 2, ...; what `config` leaves open is UaMixConfig's default
    for an hour of audio or more."""
    sizes = {"token_drop": 0.5} | ({**SMALL_HEADS, "queue_size": SMALL_QUEUE} if small else {})
    model = UaMixForContrastiveTuning.from_encoder(make_encoder(small, layers), **(sizes | config)).train()
    queue = model.neighbour_queue
    queue.enqueue(F.normalize(torch.randn_like(queue.keys), dim=-1), torch.arange(len(queue)))
    return model


def plain_copy(model: UaMixForContrastiveTuning) -> PlainStep:
    """The plain step with the same weights and the same neighbour queue."""
    plain = PlainStep(copy.deepcopy(model.encoder), model.config).train()
    for name in ("projector", "predictor", "target_projector"):
        getattr(plain, name).load_state_dict(getattr(model.heads, name).state_dict())
    plain.queue.copy_(model.neighbour_queue.keys)
    plain.queue_ids.copy_(model.neighbour_queue.ids)
    return plain


def make_clips(clips: int, seconds: int) -> dict[str, torch.Tensor]:
    """A batch as the collator makes it: raw log-mels of noise, padded with 0 to whole patches."""
    generator = torch.Generator().manual_seed(seconds)
    frames = 100 * seconds - 2
    log_mels = -4.3 + 4.6 * torch.randn(clips, frames, MEL, generator=generator)
    padding = -frames % 16
    return {
        "input_values": F.pad(log_mels, (0, 0, 0, padding)),
        "attention_mask": F.pad(torch.ones(clips, frames, dtype=torch.long), (0, padding)),
        "sample_id": torch.arange(clips),
    }


def given_views(model: UaMixForContrastiveTuning, clips: int, seconds: int) -> dict[str, torch.Tensor]:
    """What the plain step takes: two views of our making, padded to the encoder's full length, and a cut of each."""
    batch, full = make_clips(clips, seconds), model.adapter.max_frames
    lengths = batch["attention_mask"].sum(dim=1)
    view_a, view_b, _ = two_views(batch["input_values"], lengths, model.config, model.adapter.patch, full, "log-mel")
    partner = mixing.draw_partners(clips, model.config.pairing)
    mix_mask = mixing.draw_mix_mask(model.config, torch.full((clips,), full), partner, full, MEL)
    padded = [model.normalize(F.pad(view, (0, 0, 0, full - view.shape[1]))) for view in (view_a, view_b)]
    return {
        "view_a": padded[0],
        "view_b": padded[1],
        "partner": partner,
        "kept": mix_mask[..., 0] > 0,
        "sample_id": batch["sample_id"],
    }


def loss_of_given(
    model: UaMixForContrastiveTuning,
    view_a: torch.Tensor,
    view_b: torch.Tensor,
    partner: torch.Tensor,
    kept: torch.Tensor,
    sample_id: torch.Tensor,
) -> torch.Tensor:
    """Our loss of what `given_views` gives; padding counts as audio, as it does in the plain step."""
    lengths = torch.full_like(sample_id, view_a.shape[1])
    return model.contrast(view_a, view_b, lengths, sample_id, partner, [kept.float()[..., None]]).loss


def trainers_optimizer(parameters: Iterable[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    """The optimizer that our Trainer makes by default; options replace those of the plastic recipe."""
    args = UaMixTrainingArguments(use_cpu=True, recipe="plastic")
    kind, given = Trainer.get_optimizer_cls_and_kwargs(args)
    return kind(parameters, **({"weight_decay": args.weight_decay} | given | options))


def training_step(
    model: UaMixForContrastiveTuning | PlainStep, loss: Callable[..., torch.Tensor]
) -> Callable[..., float]:
    """A function that does one step on its arguments and returns their loss: forward, backward, AdamW with the defaults
    of the plastic recipe, target. Gradients are freed at its end."""
    optimizer = trainers_optimizer(parameter for parameter in model.parameters() if parameter.requires_grad)

    def step(*inputs: Any, **named: Any) -> float:
        value = loss(*inputs, **named)
        value.backward()
        optimizer.step()
        model.update_target()
        optimizer.zero_grad()
        return value.item()

    return step


def describe(model: UaMixForContrastiveTuning, clips: int, seconds: int) -> str:
    config = model.encoder.config
    return f"{clips} clips of {seconds} s, hidden size {config.hidden_size}, {config.num_hidden_layers} layers"
