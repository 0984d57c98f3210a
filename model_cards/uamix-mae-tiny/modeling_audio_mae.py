"""The transformers models of Audio-MAE (Huang et al., "Masked Autoencoders that Listen", NeurIPS 2022)."""

import math
import os
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

from .configuration_audio_mae import AudioMAEConfig
from .decoder_audio_mae import AudioMAEDecoder, AudioMAEWindowAttention
from .layers_audio_mae import AudioMAEAttention, AudioMAEFixedBuffers, AudioMAELayer, encoder_attention_mask
from .masking_audio_mae import drop_tokens, frames_to_tokens
from .patches_audio_mae import AudioMAEEmbeddings, InputTooLongError
from .pooling_audio_mae import AudioMAEAttentionPooling, AudioMAEWhitening, pool_tokens


@dataclass
class AudioMAEModelOutput(BaseModelOutputWithPooling):
    """Output of [`AudioMAEModel`].

    Args:
        last_hidden_state (`(batch, prefix + tokens, hidden_size)`): Prefix tokens, then patch tokens in time-major
            order (token `t * bands + f`). If tokens were dropped, only the visible ones, shuffled.
        pooler_output (`(batch, embedding_size)`): See `AudioMAEConfig.pooling`.
        hidden_states (`tuple`, *optional*): As in transformers, with `output_hidden_states=True`.
        attentions (`tuple`, *optional*): As in transformers, with `output_attentions=True`.
        mask (`(batch, tokens)`, only if tokens were dropped): 1 = removed, 0 = visible or padding.
        ids_restore (`(batch, tokens)`, only if tokens were dropped): Position of each token in the shuffled order.
    """

    mask: torch.Tensor | None = None
    ids_restore: torch.Tensor | None = None


@dataclass
class AudioMAEForPreTrainingOutput(ModelOutput):
    """Output of [`AudioMAEForPreTraining`].

    Args:
        loss (`()`): Mean squared error over the removed tokens of the batch, float32; with `contrastive_weight`, the
            weighted sum of `loss_reconstruction` and `loss_contrastive`.
        logits (`(batch, tokens, patch_size ** 2)`): Predicted patches, values in order (frame, mel bin).
        mask (`(batch, tokens)`): As in [`AudioMAEModelOutput`].
        ids_restore (`(batch, tokens)`): As in [`AudioMAEModelOutput`].
        loss_reconstruction (`()`, only with `contrastive_weight`): Squared error of the joint objective.
        loss_contrastive (`()`, only with `contrastive_weight`): InfoNCE loss of the joint objective.
        hidden_states (`tuple`, *optional*): Of the encoder, with `output_hidden_states=True`.
        attentions (`tuple`, *optional*): Of the encoder, with `output_attentions=True`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    ids_restore: torch.Tensor | None = None
    loss_reconstruction: torch.Tensor | None = None
    loss_contrastive: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class AudioMAEPreTrainedModel(PreTrainedModel):
    config: AudioMAEConfig
    base_model_prefix = "audio_mae"
    main_input_name = "input_values"
    input_modalities = ["audio"]
    supports_gradient_checkpointing = True
    # The losses are means over the batch, so the Trainer must divide them by its accumulation steps.
    accepts_loss_kwargs = False
    # Any number of frames up to max_length with a frame-level attention_mask; read by uamix_hf.training.encoders.
    variable_length = True
    _no_split_modules = ["AudioMAEEmbeddings", "AudioMAELayer", "AudioMAEWindowLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": AudioMAELayer, "attentions": AudioMAEAttention}
    _input_embed_layer = "patch_embeddings"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises as Audio-MAE does (arXiv 2207.06405), including every tensor that a checkpoint may lack."""
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, AudioMAEClassifier):
            init.trunc_normal_(module.weight, std=self.config.classifier_initializer_range)
        elif isinstance(module, AudioMAEAttentionPooling):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv2d):
            bound = math.sqrt(
                6 / (module.weight.shape[0] + module.weight[0].numel())
            )  # Xavier of a patch as one vector
            init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, AudioMAEEmbeddings):
            init.normal_(module.cls_token, std=std)
        elif isinstance(module, AudioMAEDecoder):
            init.normal_(module.mask_token, std=std)
        elif isinstance(module, AudioMAEWindowAttention):
            init.ones_(module.tau)
        if isinstance(module, AudioMAEFixedBuffers):
            module.reset_fixed_buffers()

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """Saves as in transformers, with an `auto_map` of every class, whichever of them is saved.

        So a folder loads through any Auto class with `trust_remote_code=True` without this package.
        """
        self.config.auto_map = {
            "AutoConfig": "configuration_audio_mae.AudioMAEConfig",
            "AutoModel": "modeling_audio_mae.AudioMAEModel",
            "AutoModelForPreTraining": "modeling_audio_mae.AudioMAEForPreTraining",
            "AutoModelForAudioClassification": "modeling_audio_mae.AudioMAEForAudioClassification",
            "AutoFeatureExtractor": "feature_extraction_audio_mae.AudioMAEFeatureExtractor",
        }
        super().save_pretrained(save_directory, *args, **kwargs)


class AudioMAEModel(AudioMAEPreTrainedModel):
    """The encoder. It drops tokens only if `forward` is given a ratio."""

    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^classifier(_layernorm)?\."]

    def __init__(self, config: AudioMAEConfig):
        super().__init__(config)
        width, heads, inner = config.hidden_size, config.num_attention_heads, config.intermediate_size
        self.embeddings = AudioMAEEmbeddings(config)
        last = max(1, config.num_hidden_layers - 1)
        rates = [config.drop_path_rate * depth / last for depth in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(AudioMAELayer(config, width, heads, inner, rate) for rate in rates)
        no_norm, fc_norm = config.pooling == "mean_fc_norm", config.pooling in ("mean_fc_norm", "mean_two_norms")
        self.layernorm = nn.Identity() if no_norm else nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc_norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if fc_norm else nn.Identity()
        attends = config.pooling in ("attention", "attention_time")
        self.attention_pooling = AudioMAEAttentionPooling(config) if attends else nn.Identity()
        size = config.whitening_size
        self.whitening = AudioMAEWhitening(config.pooled_size, size) if size else nn.Identity()
        self.post_init()

    def token_mask(self, attention_mask: torch.Tensor | None, input_values: torch.Tensor) -> torch.Tensor | None:
        """Converts a frame-level mask to valid tokens (batch, tokens) bool, or None without padding.

        Raises:
            ValueError: A mask of another shape, or all 0 for a clip.
        """
        if attention_mask is None:
            return None
        if attention_mask.shape != input_values.shape[:2]:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, expected {tuple(input_values.shape[:2])}: "
                "one value per frame (1 = audio, 0 = padding)."
            )
        valid = frames_to_tokens(attention_mask, self.config)
        if is_tracing(valid):
            return valid
        if valid.all():
            return None
        if not valid.any(dim=1).all():
            empty = (~valid.any(dim=1)).nonzero().flatten().tolist()
            raise ValueError(f"attention_mask is all 0 in rows {empty}: a clip without a frame has no embedding.")
        return valid

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        mask_ratio: float | None = None,
        mask_time_ratio: float | None = None,
        mask_mel_ratio: float | None = None,
        noise: torch.Tensor | None = None,
        **kwargs,
    ) -> AudioMAEModelOutput:
        """Encodes log-mel spectrograms.

        Args:
            input_values (`(batch, frames, num_mel_bins)`): Normalised log-mel, float; frames that whole patches cover
                (a multiple of `patch_size`, unless they overlap), at most `max_length`.
            attention_mask (`(batch, frames)`, *optional*): 1 = audio, 0 = padding. Tokens of padding neither attend,
                nor are attended to, nor count in the pooled mean.
            mask_ratio (`float`, *optional*): Fraction of each clip's tokens to drop before the layers.
            mask_time_ratio (`float`, *optional*): Fraction of each clip's time columns to drop first.
            mask_mel_ratio (`float`, *optional*): Fraction of each clip's frequency bands to drop first.
            noise (*optional*): The entries of least noise are kept; makes dropping reproducible. `(batch, tokens)` with
                `mask_ratio`; `(batch, columns + bands)` with one or both of the others; concatenated in the order
                columns, bands, tokens with all.
            **kwargs: `output_hidden_states` and `output_attentions`, as in transformers.

        Raises:
            InputTooLongError: More than `max_length` frames.
            ValueError: Wrong shapes, a clip that is all padding, or `noise` without a ratio.
            TypeError: An unknown argument.
        """
        collected = {f"output_{name}" for name in self._can_record_outputs}
        # None and False request nothing: exporters and PEFT pass such arguments to every model.
        requested = [name for name, value in kwargs.items() if value is not None and value is not False]
        if unknown := [name for name in requested if name not in collected]:
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(unknown)}.")
        ratios = (mask_ratio, mask_time_ratio, mask_mel_ratio)
        drops = any(ratio is not None for ratio in ratios)
        if noise is not None and not drops:
            raise ValueError("noise orders the tokens to drop: it needs mask_ratio, mask_time_ratio or mask_mel_ratio.")
        cls, patches = self.embeddings(input_values)
        visible = self.token_mask(attention_mask, input_values)
        mask = ids_restore = None
        if drops:
            bands = self.config.grid_size[1]
            patches, visible, mask, ids_restore = drop_tokens(patches, visible, bands, *ratios, noise)
        hidden_states = torch.cat([cls, patches], dim=1)
        token_mask = encoder_attention_mask(self.config, hidden_states, visible)
        for layer in self.layers:
            hidden_states = layer(hidden_states, token_mask)
        last_hidden_state = self.layernorm(hidden_states)
        pooled_states = hidden_states if self.config.pooling == "mean_two_norms" else last_hidden_state
        pooled = pool_tokens(pooled_states, visible, attention_mask, ids_restore, self.config, self.attention_pooling)
        return AudioMAEModelOutput(
            last_hidden_state=last_hidden_state,
            pooler_output=self.whitening(self.fc_norm(pooled)),
            mask=mask,
            ids_restore=ids_restore,
        )


class AudioMAEForPreTraining(AudioMAEPreTrainedModel):
    """Encoder and decoder, trained to reconstruct the removed log-mel patches."""

    def __init__(self, config: AudioMAEConfig):
        super().__init__(config)
        if config.num_prefix_tokens != 1 or len({*config.patch_shape, *config.strides}) > 1:
            raise ValueError(
                f"AudioMAEForPreTraining reconstructs square patches that do not overlap, after one prefix token: not "
                f"num_prefix_tokens={config.num_prefix_tokens}, patches of {config.patch_shape}, strides "
                f"{config.strides} (frames, mel bins)."
            )
        self.audio_mae = AudioMAEModel(config)
        self.audio_mae.attention_pooling.requires_grad_(False)  # nothing that is reconstructed is pooled
        self.decoder = AudioMAEDecoder(config)
        self.post_init()

    def patchify(self, input_values: torch.Tensor) -> torch.Tensor:
        """Splits (batch, frames, mel bins) into float32 patches (batch, tokens, patch_size**2).

        The values of a patch are in order (frame, mel bin).
        """
        side = self.config.patch_size
        patches = input_values.float().unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        return patches.flatten(3, 4).flatten(1, 2)

    def targets(self, input_values: torch.Tensor) -> torch.Tensor:
        """Target patches (batch, tokens, patch_size**2) float32, each standardised if `norm_pix_loss`."""
        target = self.patchify(input_values)
        if self.config.norm_pix_loss:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        return target

    def reconstruction_loss(self, target: torch.Tensor, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Squared error of each patch, averaged over the removed ones of the batch."""
        error = (logits.float() - target).square().mean(dim=-1)
        return (error * mask).sum() / mask.float().sum().clamp_min(1)

    def contrastive_loss(self, target: torch.Tensor, matches: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """InfoNCE loss: identifies each removed patch among the removed ones of its clip, averaged over the batch."""
        with torch.autocast(matches.device.type, enabled=False):
            similarity = matches.float() @ target.transpose(1, 2)
        # Finite, so that rows of visible patches, which do not count, have no NaN gradient.
        similarity = similarity.masked_fill(mask[:, None] == 0, torch.finfo(similarity.dtype).min)
        loss = similarity.logsumexp(dim=2) - similarity.diagonal(dim1=1, dim2=2)
        return torch.where(mask > 0, loss, 0).sum() / mask.float().sum().clamp_min(1)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        return_loss: bool = True,
        **kwargs,
    ) -> AudioMAEForPreTrainingOutput:
        """Masks, encodes and reconstructs log-mel spectrograms.

        Args:
            input_values (`(batch, frames, num_mel_bins)`): As in [`AudioMAEModel.forward`].
            attention_mask (`(batch, frames)`, *optional*): As there; padding is never predicted.
            noise (*optional*): As there, for `config.mask_type`.
            return_loss (`bool`): Whether to compute the loss.
            **kwargs: As there.
        """
        config = self.config
        if config.mask_type == "unstructured":
            ratios = {"mask_ratio": config.mask_ratio}
        else:
            ratios = {"mask_time_ratio": config.mask_time_ratio, "mask_mel_ratio": config.mask_mel_ratio}
        encoded = self.audio_mae(input_values, attention_mask, noise=noise, **ratios, **kwargs)
        valid = self.audio_mae.token_mask(attention_mask, input_values)
        logits, matches = self.decoder(encoded.last_hidden_state, encoded.mask, encoded.ids_restore, valid)
        loss = reconstruction = contrastive = None
        if return_loss:
            target = self.targets(input_values)
            loss = self.reconstruction_loss(target, logits, encoded.mask)
            if matches is not None:
                reconstruction, contrastive = loss, self.contrastive_loss(target, matches, encoded.mask)
                loss = reconstruction + config.contrastive_weight * contrastive
        return AudioMAEForPreTrainingOutput(
            loss=loss,
            logits=logits,
            mask=encoded.mask,
            ids_restore=encoded.ids_restore,
            loss_reconstruction=reconstruction,
            loss_contrastive=contrastive,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class AudioMAEClassifier(nn.Linear):
    """Linear classification head. It has its own class because its initialisation, near zero, differs."""


class AudioMAEForAudioClassification(AudioMAEPreTrainedModel):
    """Encoder with a linear head on its pooled output: single-label, multi-label or regression."""

    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def __init__(self, config: AudioMAEConfig):
        super().__init__(config)
        self.num_labels: int = config.num_labels  # type: ignore[assignment]
        self.audio_mae = AudioMAEModel(config)
        eps = config.classifier_layer_norm_eps
        self.classifier_layernorm = nn.Identity() if eps is None else nn.LayerNorm(config.embedding_size, eps=eps)
        self.classifier = AudioMAEClassifier(config.embedding_size, self.num_labels)
        self.post_init()

    def patchout(self) -> dict[str, float]:
        """Ratios of [`AudioMAEModel.forward`] during training, those above 0."""
        config = self.config
        ratios = {
            "mask_ratio": config.patchout_ratio,
            "mask_time_ratio": config.patchout_time_ratio,
            "mask_mel_ratio": config.patchout_mel_ratio,
        }
        return {name: ratio for name, ratio in ratios.items() if ratio > 0}

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """Classifies log-mel spectrograms.

        Args:
            input_values (`(batch, frames, num_mel_bins)`): As in [`AudioMAEModel.forward`].
            attention_mask (`(batch, frames)`, *optional*): As there.
            labels (*optional*): `(batch,)` class indices (cross-entropy), `(batch, num_labels)` float 0/1 (binary
                cross-entropy), or float targets if `num_labels` is 1 (squared error); see `problem_type`.
            **kwargs: As there.
        """
        ratios = self.patchout() if self.training else {}
        encoded = self.audio_mae(input_values, attention_mask, **{**ratios, **kwargs})
        logits = self.classifier(self.classifier_layernorm(encoded.pooler_output))
        loss = None if labels is None else self.loss_function(labels, logits.float(), self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )


__all__ = [
    "AudioMAEForAudioClassification",
    "AudioMAEForPreTraining",
    "AudioMAEModel",
    "AudioMAEPreTrainedModel",
    "InputTooLongError",
]
