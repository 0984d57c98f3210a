"""SSAMBA, a bidirectional Mamba of spectrogram patches, as a transformers model.

Shams et al., "SSAMBA: Self-Supervised Audio Representation Learning with Mamba State Space Model", 2024, arXiv
2405.11831; Mamba: Gu and Dao 2023, arXiv 2312.00752; its bidirectional blocks: Zhu et al. 2024, arXiv 2401.09417.
"""

import math
import os
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_ssamba import SSAMBAConfig

try:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
except Exception:  # not installed, or compiled for another torch: PyTorch's own operations serve
    selective_scan_fn = None

# Steps whose factors are computed at once: as many as a CPU's cache holds of a base model.
CHUNK_STEPS = 16
# Range of the time steps of a fresh model (Gu and Dao 2023).
TIME_STEP_MIN, TIME_STEP_MAX = 1e-3, 0.1


def scan_chunk(
    state: torch.Tensor,
    rate: torch.Tensor,
    step: torch.Tensor,
    drive: torch.Tensor,
    input_weight: torch.Tensor,
    output_weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs the recurrence of [`selective_scan`] over a few steps, from a state.

    Args:
        state: (batch, directions, state_size, channels) before the first step.
        rate: (directions, state_size, channels), negative.
        step: (batch, steps, directions, channels).
        drive: Input times time step, like `step`.
        input_weight: (batch, steps, directions, state_size).
        output_weight: Like `input_weight`.

    Returns:
        Outputs (batch, steps, directions, channels) and the state after the last step.
    """
    decays = (step[..., None, :] * rate).exp()
    inputs = input_weight[..., None] * drive[..., None, :]
    states = []
    for decay, added in zip(decays.unbind(1), inputs.unbind(1), strict=True):
        state = torch.addcmul(added, decay, state)
        states.append(state)
    return (output_weight[..., None, :] @ torch.stack(states, dim=1))[..., 0, :], state


def selective_scan(
    values: torch.Tensor,
    step: torch.Tensor,
    rate: torch.Tensor,
    input_weight: torch.Tensor,
    output_weight: torch.Tensor,
) -> torch.Tensor:
    """Selective scan of Mamba: `h_t = exp(step_t * rate) * h_(t-1) + step_t * B_t * x_t` and `y_t = C_t . h_t`.

    It runs in sequence, in float32, also under autocast. Gradients are computed from recomputed chunks of steps, so
    that memory holds one state per chunk and not one per step. With it, 10 s of audio take a base model 2.4 s of one
    CPU core, a small one 0.9 s and a tiny one 0.5 s, and 4 to 6 times as long with gradients. On a GPU mamba-ssm's
    kernel is used if it imports; that was tested with a stand-in of the same interface only.

    Args:
        values: Inputs x, (batch, length, directions, channels).
        step: Positive time steps, like `values`; a step of 0 leaves the state as it is.
        rate: Negative decay rates, (directions, state_size, channels).
        input_weight: B, (batch, length, directions, state_size).
        output_weight: C, like `input_weight`.

    Returns:
        Outputs y (batch, length, directions, channels) float32. Source: Gu and Dao 2023, section 3.
    """
    values, step, rate, input_weight, output_weight = (
        tensor.float() for tensor in (values, step, rate, input_weight, output_weight)
    )
    with torch.autocast(values.device.type, enabled=False):
        if selective_scan_fn is not None and values.is_cuda:
            return kernel_scan(values, step, rate, input_weight, output_weight)
        batch = len(values)
        state = values.new_zeros(batch, *rate.shape)
        outputs = []
        pieces = (tensor.split(CHUNK_STEPS, dim=1) for tensor in (step, step * values, input_weight, output_weight))
        for piece in zip(*pieces, strict=True):
            if torch.is_grad_enabled():
                done, state = checkpoint(
                    scan_chunk, state, rate, *piece, use_reentrant=False, preserve_rng_state=False
                )  # fmt: skip
            else:
                done, state = scan_chunk(state, rate, *piece)
            outputs.append(done)
        return torch.cat(outputs, dim=1)


def kernel_scan(
    values: torch.Tensor,
    step: torch.Tensor,
    rate: torch.Tensor,
    input_weight: torch.Tensor,
    output_weight: torch.Tensor,
) -> torch.Tensor:
    """[`selective_scan`] by mamba-ssm's kernel, which takes channels before time and the directions as groups."""
    values_, step_ = (tensor.flatten(2).transpose(1, 2).contiguous() for tensor in (values, step))
    rate_ = rate.transpose(1, 2).flatten(0, 1).contiguous()
    weights = (tensor.permute(0, 2, 3, 1).contiguous() for tensor in (input_weight, output_weight))
    output = selective_scan_fn(values_, step_, rate_, *weights)
    return output.transpose(1, 2).unflatten(2, values.shape[2:])


class SSAMBAEmbeddings(nn.Module):
    """Patches, class token and learned positions.

    Token 0 is the class token, token `1 + f * columns + t` patch `f` of time column `t`: frequency-major, the order in
    which SSAMBA scans. A clip that is shorter than the table takes its middle columns.
    """

    def __init__(self, config: SSAMBAConfig):
        super().__init__()
        self.config = config
        time, mel = config.grid_size
        patch = (config.patch_size, config.patch_mel_bins)
        self.projection = nn.Conv2d(1, config.hidden_size, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + mel * time, config.hidden_size))

    def forward(self, input_values: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
        """Embeds spectrograms.

        Args:
            input_values: (batch, frames, num_mel_bins) float.
            columns: Valid time columns (batch, columns) bool, or None where nothing is padded.

        Returns:
            (batch, 1 + tokens, hidden_size).
        """
        config = self.config
        if input_values.ndim != 3 or input_values.shape[2] != config.num_mel_bins:
            raise ValueError(
                f"input_values has shape {tuple(input_values.shape)}, expected (batch, frames, {config.num_mel_bins}): "
                "the log-mel spectrograms of the feature extractor."
            )
        frames = input_values.shape[1]
        if frames > config.max_length:
            raise ValueError(
                f"input_values has {frames} frames of 10 ms and the model's positions end at {config.max_length}. "
                "Embed long recordings with uamix_hf.AudioEmbedder, which averages windows, or cut them with the "
                "feature extractor's truncation=True."
            )
        if frames == 0 or frames % config.patch_size:
            raise ValueError(
                f"input_values has {frames} frames, not a positive multiple of patch_size={config.patch_size}: pad "
                "with the feature extractor, which also makes the attention_mask."
            )
        patches = self.projection(input_values[:, None].to(self.cls_token.dtype)).permute(0, 3, 2, 1)
        time, mel = config.grid_size
        table = self.position_embeddings[0, 1:].unflatten(0, (mel, time))
        if columns is None:
            start = time // 2 - patches.shape[2] // 2
            positions = table[None, :, start : start + patches.shape[2]]
        else:
            # Each clip takes the columns that it would take alone.
            start = time // 2 - columns.sum(dim=1, keepdim=True) // 2
            place = (start + columns.cumsum(dim=1) - 1).clamp_min(0)
            positions = table[:, place].transpose(0, 1)
        cls = (self.cls_token + self.position_embeddings[:, :1]).expand(len(patches), -1, -1)
        return torch.cat([cls, (patches + positions).flatten(1, 2)], dim=1)


class SSAMBADirection(nn.Module):
    """Convolution and input-dependent parameters of the scan in one direction."""

    def __init__(self, config: SSAMBAConfig):
        super().__init__()
        width, kernel = config.intermediate_size, config.conv_kernel
        self.sizes = [config.time_step_rank, config.state_size, config.state_size]
        self.conv1d = nn.Conv1d(width, width, kernel, groups=width, padding=kernel - 1)
        self.x_proj = nn.Linear(width, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(config.time_step_rank, width)
        self.A_log = nn.Parameter(torch.zeros(width, config.state_size))
        self.D = nn.Parameter(torch.ones(width))

    def forward(self, hidden_states: torch.Tensor, valid: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Prepares the scan.

        Args:
            hidden_states: (batch, tokens, channels), 0 at padding.
            valid: Valid tokens (batch, tokens) bool, or None.

        Returns:
            Inputs x and time steps (batch, tokens, channels), B and C (batch, tokens, state_size).
        """
        length = hidden_states.shape[1]
        values = F.silu(self.conv1d(hidden_states.transpose(1, 2))[..., :length]).transpose(1, 2)
        step, input_weight, output_weight = self.x_proj(values).split(self.sizes, dim=2)
        step = F.softplus(self.dt_proj(step).float())
        if valid is not None:  # a step of 0 leaves the state as it is
            step = step * valid[..., None]
        return values, step, input_weight, output_weight


class SSAMBABlock(nn.Module):
    """Layer norm and bidirectional Mamba mixer: both directions share the projections, their outputs are averaged."""

    def __init__(self, config: SSAMBAConfig):
        super().__init__()
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.in_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.forward_scan = SSAMBADirection(config)
        self.backward_scan = SSAMBADirection(config)
        self.out_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Maps (batch, tokens, hidden_size) to the same shape; `valid` as in [`SSAMBADirection`]."""
        values, gate = self.in_proj(self.layernorm(hidden_states)).chunk(2, dim=2)
        if valid is not None:
            values = values * valid[..., None]
        flipped = None if valid is None else valid.flip(1)
        prepared = [self.forward_scan(values, valid), self.backward_scan(values.flip(1), flipped)]
        inputs, step, input_weight, output_weight = (torch.stack(pair, dim=2) for pair in zip(*prepared, strict=True))
        scans = (self.forward_scan, self.backward_scan)
        rate = torch.stack([-scan.A_log.float().exp().T for scan in scans])
        scanned = selective_scan(inputs, step, rate, input_weight, output_weight)
        skip = torch.stack([scan.D for scan in scans])
        scanned = scanned.to(inputs.dtype) + inputs * skip
        output = (scanned[:, :, 0] + scanned[:, :, 1].flip(1)) / 2
        return self.out_proj(output * F.silu(gate))


class SSAMBALayer(GradientCheckpointingLayer):
    """A pair of blocks on the tokens in order and reversed.

    SSAMBA sums the outputs of both blocks and also their residuals, so that the residual doubles.
    """

    def __init__(self, config: SSAMBAConfig):
        super().__init__()
        self.forward_block = SSAMBABlock(config)
        self.backward_block = SSAMBABlock(config)

    def forward(self, hidden_states: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Maps (batch, tokens, hidden_size) to the same shape; `valid` as in [`SSAMBADirection`]."""
        flipped = None if valid is None else valid.flip(1)
        added = self.forward_block(hidden_states, valid)
        added = added + self.backward_block(hidden_states.flip(1), flipped).flip(1)
        return 2 * hidden_states + added


class SSAMBAPreTrainedModel(PreTrainedModel):
    """Base class: initialisation, loading and saving."""

    config: SSAMBAConfig
    base_model_prefix = "ssamba"
    main_input_name = "input_values"
    input_modalities = ["audio"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    # Any number of frames up to max_length, with a frame-level attention_mask: read by uamix_hf's encoder contract.
    variable_length = True
    _no_split_modules = ["SSAMBAEmbeddings", "SSAMBALayer"]
    _can_record_outputs = {"hidden_states": SSAMBALayer}
    _input_embed_layer = "projection"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises a module, with every tensor that a checkpoint may lack; scans as in Gu and Dao 2023."""
        super()._init_weights(module)
        config = self.config
        if isinstance(module, SSAMBAEmbeddings):
            init.normal_(module.cls_token, std=config.initializer_range)
            init.normal_(module.position_embeddings, std=config.initializer_range)
        elif isinstance(module, SSAMBADirection):
            states = torch.arange(1, config.state_size + 1, dtype=torch.float32, device="cpu")
            init.copy_(module.A_log, states.log().expand(config.intermediate_size, -1))
            init.ones_(module.D)
            init.uniform_(module.dt_proj.weight, -(config.time_step_rank**-0.5), config.time_step_rank**-0.5)
            low, high = math.log(TIME_STEP_MIN), math.log(TIME_STEP_MAX)
            step = (low + (high - low) * torch.rand(config.intermediate_size, device="cpu")).exp()
            init.copy_(module.dt_proj.bias, step + (-(-step).expm1()).log())  # the inverse of softplus

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """Saves as transformers does.

        `auto_map` names every class, so that a folder loads through any Auto class with `trust_remote_code=True` where
        this package is absent.
        """
        self.config.auto_map = {
            "AutoConfig": "configuration_ssamba.SSAMBAConfig",
            "AutoModel": "modeling_ssamba.SSAMBAModel",
            "AutoFeatureExtractor": "feature_extraction_audio_mae.AudioMAEFeatureExtractor",
        }
        super().save_pretrained(save_directory, *args, **kwargs)


class SSAMBAModel(SSAMBAPreTrainedModel):
    """The encoder of SSAMBA on all tokens."""

    def __init__(self, config: SSAMBAConfig):
        super().__init__(config)
        self.embeddings = SSAMBAEmbeddings(config)
        self.layers = nn.ModuleList(SSAMBALayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def valid_columns(self, attention_mask: torch.Tensor | None, input_values: torch.Tensor) -> torch.Tensor | None:
        """Valid time columns (batch, columns) bool of a frame-level mask, or None where nothing is padded."""
        if attention_mask is None:
            return None
        if attention_mask.shape != input_values.shape[:2]:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, expected {tuple(input_values.shape[:2])}: "
                "one value per frame (1 = audio, 0 = padding)."
            )
        columns = attention_mask.bool().unflatten(1, (-1, self.config.patch_size)).any(-1)
        if columns.all():
            return None
        if not columns.any(dim=1).all():
            empty = (~columns.any(dim=1)).nonzero().flatten().tolist()
            raise ValueError(f"attention_mask is all 0 in rows {empty}: a clip without a frame has no embedding.")
        return columns

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Embeds spectrograms.

        A scan would carry padding into the tokens that follow it, in both directions. Valid tokens are therefore moved
        together before the layers, and padding leaves the states of the scans as they are: a clip is embedded alike
        alone and in a padded batch. SSAMBA's own scripts pad every clip to `max_length` frames and count the padding
        as audio: pad by `padding="max_length"`, which gives no mask, to get their numbers.

        Args:
            input_values (`(batch, frames, num_mel_bins)`): Normalised log-mel, float; frames a multiple of
                `patch_size`, at most `max_length`.
            attention_mask (`(batch, frames)`, *optional*): 1 = audio, 0 = padding.
            kwargs: `output_hidden_states`, as in transformers.

        Returns:
            `last_hidden_state` (batch, 1 + tokens, hidden_size), class token and patches in SSAMBA's frequency-major
            order (token `1 + f * columns + t`), 0 at padding; `pooler_output` (batch, hidden_size), see
            `SSAMBAConfig.pooling`; `hidden_states`, of which the first are the embeddings, valid tokens first.

        Raises:
            ValueError: wrong shapes, more than `max_length` frames, or a clip that is padding throughout.
            TypeError: an argument that is none of these, nor of the outputs that transformers collects.
        """
        collected = {f"output_{name}" for name in self._can_record_outputs}
        # What is switched off has no effect: exporters and PEFT pass such arguments to every model.
        asked = [name for name, value in kwargs.items() if value is not None and value is not False]
        if unknown := [name for name in asked if name not in collected]:
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(unknown)}.")
        columns = self.valid_columns(attention_mask, input_values)
        hidden_states = self.embeddings(input_values, columns)
        if columns is None:
            valid = together = order = None
        else:
            valid = F.pad(columns.repeat(1, self.config.grid_size[1]), (1, 0), value=True)
            order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
            together = valid.gather(1, order)
            hidden_states = hidden_states.gather(1, order[..., None].expand_as(hidden_states))
        for layer in self.layers:
            hidden_states = layer(hidden_states, together)
        hidden_states = self.layernorm(self.layernorm(hidden_states))  # twice, as SSAMBA does
        if valid is not None and order is not None:
            back = order.argsort(dim=1)[..., None].expand_as(hidden_states)
            hidden_states = hidden_states.gather(1, back) * valid[..., None]
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=self.pool(hidden_states, valid)
        )

    def pool(self, hidden_states: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Clip embedding (batch, embedding_size); a mean is summed in float32 at least, also under autocast."""
        if self.config.pooling == "cls":
            return hidden_states[:, 0]
        patches = hidden_states[:, 1:].to(torch.promote_types(hidden_states.dtype, torch.float32))
        with torch.autocast(patches.device.type, enabled=False):
            count = patches.shape[1] if valid is None else valid[:, 1:].sum(dim=1, keepdim=True)
            pooled = patches.sum(dim=1) / count
            if self.config.pooling == "mean_std":
                deviations = patches - pooled[:, None]
                deviations = deviations if valid is None else deviations * valid[:, 1:, None]
                # Of one token it is 0, with a gradient of 0, which that of a square root would not be.
                pooled = torch.cat([pooled, torch.linalg.vector_norm(deviations, dim=1) / count**0.5], dim=1)
            return pooled.to(hidden_states.dtype)


__all__ = ["SSAMBAModel", "SSAMBAPreTrainedModel"]
