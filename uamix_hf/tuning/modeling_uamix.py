"""uaMix: nearest-neighbour contrastive tuning of an encoder on clips and on mixtures of clips.

See docs/concepts/method.md.
"""

import copy
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..data.checks import refuse_idle
from ..embedding.encoders import base_of
from ..embedding.kinds import encoder_from_config, make_adapter, settings_of
from ..embedding.whitening import SHRINKAGE, SIZE
from ..training.augmentations import two_views
from ..training.distributed import gather, gather_with_gradient, world
from ..training.encoders import EncoderError
from . import mixing
from .configuration_uamix import MIXING_FIELDS, UaMixConfig
from .defaults import resolve_for_encoder
from .heads import ContrastiveHeads
from .losses import decorrelation_loss, virtual_label_loss
from .neighbour_queue import NeighbourQueue

logger = logging.getLogger(__name__)

Stage = Literal["head", "tune"]


@dataclass
class UaMixOutput(ModelOutput):
    """Loss and its parts: float32 scalars, all but `loss` detached.

    Args:
        loss: `loss_clean + mix_weight * loss_mixed + decorrelation_weight * loss_decorrelation`.
        loss_clean: Contrastive loss of the clean views.
        loss_mixed: Contrastive loss of the mixtures; None without mixtures.
        loss_decorrelation: [`decorrelation_loss`] of the clips; None if its weight is 0, or the encoder is frozen.
        mix_lambda: Mean fraction of the clip itself in its mixture, over the tokens that the encoder saw.
        neighbour_purity: Fraction of the neighbours that have the clip's label, where labels are known.
        embedding_std: Mean standard deviation per dimension of the normalised embeddings, times the square root of the
            number of dimensions: about 1 is healthy, towards 0 the embedding collapses.
    """

    loss: torch.Tensor | None = None
    loss_clean: torch.Tensor | None = None
    loss_mixed: torch.Tensor | None = None
    loss_decorrelation: torch.Tensor | None = None
    mix_lambda: torch.Tensor | None = None
    neighbour_purity: torch.Tensor | None = None
    embedding_std: torch.Tensor | None = None


class UaMixForContrastiveTuning(PreTrainedModel):
    """An encoder with heads, target projector and neighbour queue, to be tuned by uaMix.

    `.encoder` is an ordinary model to save.

    ```python
    model = UaMixForContrastiveTuning.from_encoder(AutoModel.from_pretrained("path/or/repo"), mix="t-cutmix")
    ```

    `encoder_batch_size`, None by default, is the number of views that pass the encoder at once. A larger batch takes
    several passes, whose activations are computed again for the backward pass: gradients are those of the whole batch,
    in less memory.

    Args:
        config: Settings of the method and of the encoder.
        encoder: The encoder; a new one from `config.encoder_config` by default.

    Raises:
        EncoderError: an encoder that does not meet the contract of [`EncoderAdapter`].
        ValueError: a setting that has no meaning for the encoder.
    """

    config: UaMixConfig
    config_class = UaMixConfig
    base_model_prefix = "uamix"
    main_input_name = "input_values"
    input_modalities = ["audio"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True

    def __init__(self, config: UaMixConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config)
        for module in encoder.modules() if encoder else ():
            module._is_hf_initialized = True  # type: ignore[assignment]  # post_init would initialise adapters again
        self.encoder: Any = encoder or encoder_from_config(config.encoder_config)  # type: ignore[arg-type]
        before = settings_of(self.encoder)
        if before.whitening is not None:
            logger.warning(
                "The whitening of %s is left out: tuning changes the embedding that it was fitted to. A new one is "
                "fitted at the end (whiten=True, --whiten true).", type(base_of(self.encoder)).__name__,
            )  # fmt: skip
        settings = replace(before, layer=config.embedding_layer, pooling=config.embedding_pooling, whitening=None)
        if before != settings:
            base_of(self.encoder).embedding_settings = settings  # type: ignore[assignment]
        self.adapter = make_adapter(self.encoder, config.layers_path)
        resolve_for_encoder(config, self.adapter)
        self.heads = ContrastiveHeads(self.adapter.embedding_size, config)
        self.neighbour_queue = NeighbourQueue(config.queue_size, config.projection_size)
        self._trainable = self.adapter.trainable_names()
        self.stage: Stage = "tune"
        self.encoder_batch_size: int | None = None
        self._frozen: list[nn.Module] = []
        self.post_init()
        self.heads.update_target(0.0)  # each linear layer was initialised on its own; the target starts as a copy
        self.set_stage("tune")

    @classmethod
    def from_encoder(cls, encoder: PreTrainedModel, **config: Any) -> "UaMixForContrastiveTuning":
        """Wraps an encoder, with its adapters if it has any; its weights stay as they are.

        Args:
            encoder: Encoder that meets the contract of [`EncoderAdapter`].
            **config: Fields of [`UaMixConfig`].

        Raises:
            EncoderError: the encoder does not meet the contract.
            TypeError: a keyword that is not a field.
            ValueError: a setting of mixtures with `mix="none"`, or one that has no meaning for the encoder.
        """
        unknown = set(config) - set(UaMixConfig.__annotations__)
        if unknown:  # transformers' configurations would keep a misspelt name and leave the field at its default
            raise TypeError(f"UaMixConfig has no field {', '.join(sorted(unknown))}.")
        # A copy: as a part of another configuration it loses which attention the encoder runs.
        chosen = settings_of(encoder)
        chosen_fields = {"embedding_layer": chosen.layer, "embedding_pooling": chosen.pooling}
        settings = UaMixConfig(encoder_config=copy.deepcopy(encoder.config), **{**chosen_fields, **config})
        if settings.mix == "none":
            refuse_idle(settings, MIXING_FIELDS, "mixtures, and mix is none")
        return cls(settings, encoder)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Loads a saved model, as in transformers.

        Args:
            *args: As in transformers.
            **kwargs: As in transformers.

        Raises:
            EncoderError: the saved encoder has weights that its configuration does not describe, such as adapters.
        """
        loaded: Any = super().from_pretrained(*args, **{**kwargs, "output_loading_info": True})
        model, found = loaded
        foreign = sorted(name for name in found["unexpected_keys"] if name.startswith("encoder."))
        if foreign:
            raise EncoderError(
                f"{model.name_or_path} holds weights of the encoder that its configuration does not describe, such as "
                f"{foreign[0]}. Adapters are saved and loaded by themselves: model.encoder.save_pretrained(folder), "
                "PeftModel.from_pretrained(encoder, folder). To go on with training, wrap an encoder with the same "
                "adapters by from_encoder, and resume from the checkpoint."
            )
        model.set_stage("tune")  # loading made every parameter trainable
        return loaded if kwargs.get("output_loading_info") else model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=5**0.5)  # torch's own, which the heads' batch norm expects
        elif isinstance(module, NeighbourQueue):
            init.zeros_(module.keys)
            init.constant_(module.ids, -1)
            init.constant_(module.labels, -1)
            init.zeros_(module.pointer)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """Saves the model as in transformers, but always under the current names of the weights.

        transformers would save some encoders (AST) under their original names, which its Trainer ignores silently when
        it resumes.

        Args:
            save_directory: Folder.
            *args: As in transformers.
            **kwargs: As in transformers.
        """
        super().save_pretrained(save_directory, *args, **{"save_original_format": False, **kwargs})

    def set_stage(self, stage: Stage, freeze_blocks: int = 0) -> None:
        """Chooses what is trained (docs/concepts/method.md, Stages).

        Args:
            stage: `"head"` trains the heads on the frozen encoder, without mixtures, with the single nearest neighbour
                and a target projector that equals the projector; `"tune"` trains encoder and heads.
            freeze_blocks: In `"tune"`, this many lower layers and all that comes before them stay frozen: no gradient,
                no graph, evaluation mode.

        Raises:
            ValueError: the encoder has fewer layers.
        """
        lower = self.adapter.lower_parts(freeze_blocks)
        self.stage = stage
        frozen = [self.encoder] if stage == "head" else lower
        self._frozen = [part for part in frozen if isinstance(part, nn.Module)]
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(name in self._trainable)
        for part in [*frozen, self.heads.target_projector]:
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "UaMixForContrastiveTuning":
        """Sets training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()  # dropout and drop path of frozen layers would be mere noise
        return self

    def tunable_state(self) -> dict[str, torch.Tensor]:
        """What tuning may change of the encoder: its trainable parameters and its buffers, by name, not copied."""
        kept = self._trainable | {name for name, _ in self.encoder.named_buffers()}
        return {name: value for name, value in self.encoder.state_dict().items() if name in kept}

    def update_target(self) -> None:
        """Updates the target projector; to be called after each optimiser step."""
        self.heads.update_target(self.config.ema_momentum if self.stage == "tune" else 0.0)

    def normalize(self, features: torch.Tensor) -> torch.Tensor:
        """Normalised log-mels, as the adapter takes them; waveforms as they are."""
        config: Any = self.config  # whose statistics are resolved
        return (features - config.input_mean) / (config.input_std_factor * config.input_std)

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor,
        sample_id: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> UaMixOutput:
        """Computes the loss of a batch of clips, of which two views and their mixtures are made.

        In training mode, the neighbour queue takes in the keys of view a, once per call.

        Args:
            input_values: Raw log-mels, not normalised (batch, frames, mel bins) float, or waveforms (batch, frames,
                samples of a frame), of [`cached_features`].
            attention_mask: 1 for frames of the clip, 0 for padding (batch, frames).
            sample_id: Number of each clip (batch,) int64, >= 0, the same whenever the clip comes again.
            labels: Class numbers (batch,), used for `neighbour_purity` only.

        Raises:
            ValueError: fewer than two clips, which leave nothing to contrast with.
        """
        if len(input_values) < 2:
            raise ValueError(
                "A batch of one clip has nothing to contrast it with: use at least 2 clips per process, and leave a "
                "last batch of one out (drop_last, --dataloader_drop_last true)."
            )
        config = self.config
        view_a, view_b, lengths = two_views(
            input_values.float(),
            attention_mask.sum(dim=1),
            config,
            self.adapter.patch,
            self.max_frames,
            self.adapter.domain,
        )
        partner = mixing.draw_partners(len(view_a), config.pairing, view_a.device)
        frames, bins = view_a.shape[1:]
        mix_masks = [mixing.draw_mix_mask(config, lengths, partner, frames, bins) for _ in range(self.mixed_views)]
        return self.contrast(
            self.normalize(view_a), self.normalize(view_b), lengths, sample_id, partner, mix_masks, labels
        )

    @property
    def max_frames(self) -> int:
        """Frames of the longest view."""
        most, patch, chosen = self.adapter.max_frames, self.adapter.patch, self.config.max_length
        return most if chosen is None or chosen >= most else max(patch, chosen // patch * patch)

    @property
    def mixed_views(self) -> int:
        """Number of views that are mixed: 0, 1 or 2."""
        if self.stage == "head" or self.config.mix == "none":
            return 0
        return 2 if self.config.symmetric_mix else 1

    def embed(
        self, views: list[torch.Tensor], lengths: torch.Tensor
    ) -> tuple[torch.Tensor, Sequence[torch.Tensor | None]]:
        """Embeds several views of a batch, in one pass of the encoder or in as many as `encoder_batch_size` takes.

        Args:
            views: Normalised views (batch, frames, values) each.
            lengths: Frames of each clip without padding (batch,).

        Returns:
            Pooled embeddings (views, batch, width), and the tokens of each view that the encoder saw, or None.
        """
        padding = self.normalize(torch.zeros((), device=lengths.device)).item()
        drop = (self.config.token_drop or 0.0) if self.training else 0.0
        inputs, frames = torch.cat(views), lengths.repeat(len(views))
        size = self.encoder_batch_size or len(inputs)
        encode: Callable = self.adapter.encode
        if size < len(inputs):  # its random state is restored, so that the same tokens are dropped again
            encode = partial(checkpoint, encode, use_reentrant=False)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.stage == "tune"):
            turns = [encode(*turn, drop, padding) for turn in zip(inputs.split(size), frames.split(size), strict=True)]
        pooled, visible = zip(*turns, strict=True)
        seen = [None] * len(views) if visible[0] is None else torch.cat(visible).chunk(len(views))
        return torch.cat(pooled).unflatten(0, (len(views), -1)), seen

    def contrast(
        self,
        view_a: torch.Tensor,
        view_b: torch.Tensor,
        lengths: torch.Tensor,
        sample_id: torch.Tensor,
        partner: torch.Tensor,
        mix_masks: list[torch.Tensor],
        labels: torch.Tensor | None = None,
    ) -> UaMixOutput:
        """Computes the loss of given views and mixtures; only the choice of neighbours is random.

        Args:
            view_a: First normalised view (batch, frames, values).
            view_b: Second normalised view, of the same shape.
            lengths: Frames of each clip without padding (batch,).
            sample_id: Number of each clip (batch,) int64.
            partner: Index of each clip's partner (batch,).
            mix_masks: Outputs of [`mixing.draw_mix_mask`] for view a and, where both views are mixed, view b.
            labels: Class numbers (batch,), used for `neighbour_purity` only.
        """
        config = self.config
        mixtures = [
            mixing.mix(view, partner, mix_mask) for view, mix_mask in zip((view_a, view_b), mix_masks, strict=False)
        ]
        pooled, visible = self.embed([view_a, view_b, *mixtures], lengths)
        with torch.autocast(view_a.device.type, enabled=False):
            query_a, query_b, *mixed = self.heads.predict(pooled)
            targets = self.heads.target(pooled[:2])
            # Neighbours are looked up before this batch is stored: a clip must not find its own other view.
            topk = config.topk if self.stage == "tune" else 1
            found, places = self.neighbour_queue.lookup(targets.flatten(0, 1), sample_id.repeat(2), topk)
            keys_a, keys_b = map(gather, found.chunk(2))
            first = world()[0] * len(sample_id)
            own = first + torch.arange(len(sample_id), device=sample_id.device)
            loss_clean = 0.5 * (
                virtual_label_loss(query_a, keys_b, config.temperature, own)
                + virtual_label_loss(query_b, keys_a, config.temperature, own)
            )
            losses, lambdas = [], []
            for query, seen, keys, mix_mask in zip(mixed, visible[2:], (keys_b, keys_a), mix_masks, strict=False):
                lam = (
                    mixing.frame_lambda(mix_mask, lengths)
                    if seen is None
                    else mixing.token_lambda(mix_mask, seen, self.adapter.patch_shape, self.adapter.strides)
                )
                losses.append(virtual_label_loss(query, keys, config.temperature, own, first + partner, lam))
                lambdas.append(lam)
        purity = self.purity(places[: len(sample_id)], labels)
        if self.training:
            classes = None if labels is None else gather(labels)
            self.neighbour_queue.enqueue(gather(targets[0]), gather(sample_id), classes)
        loss_mixed = torch.stack(losses).mean() if losses else None
        loss = loss_clean if loss_mixed is None else loss_clean + config.mix_weight * loss_mixed
        loss_decorrelation = None
        if config.decorrelation_weight and self.stage == "tune":
            loss_decorrelation = decorrelation_loss(gather_with_gradient(pooled[:2].mean(dim=0)), SHRINKAGE, SIZE)
            loss = loss + config.decorrelation_weight * loss_decorrelation
        return UaMixOutput(
            loss=loss,
            loss_clean=loss_clean.detach(),
            loss_mixed=None if loss_mixed is None else loss_mixed.detach(),
            loss_decorrelation=None if loss_decorrelation is None else loss_decorrelation.detach(),
            mix_lambda=torch.cat(lambdas).mean() if lambdas else None,
            neighbour_purity=purity,
            embedding_std=self.spread(pooled[0].detach()),
        )

    def purity(self, place: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor | None:
        """Fraction of the neighbours at these indices of the queue that have the clip's label; None without labels."""
        if labels is None or len(self.neighbour_queue) == 0:
            return None
        found = self.neighbour_queue.labels[place]
        known = (place >= 0) & (found >= 0) & (labels >= 0)
        return (known & (found == labels)).sum() / known.sum()  # NaN where nothing is known yet

    def spread(self, pooled: torch.Tensor) -> torch.Tensor:
        """`embedding_std` of [`UaMixOutput`] for embeddings (batch, width)."""
        unit = nn.functional.normalize(pooled, dim=-1)
        return unit.std(dim=0).mean() * pooled.shape[1] ** 0.5


__all__ = ["UaMixForContrastiveTuning", "UaMixOutput"]
