"""Audio-MAE's own algorithm (Huang et al., "Masked Autoencoders that Listen", arXiv 2207.06405) on timm's blocks.

Written from the paper's description, as a baseline of speed: a ViT over 16 x 16 patches of 1024 frames x 128 mel bins,
with fixed sin-cos positions; random masking of patches; a decoder of Swin-V2 blocks with windows of 4 x 4 patches,
shifted in every other block along time; the squared error of the masked patches, each standardised. Shorter clips are
padded to 1024 frames, and padding is audio like any other. Fine-tuning drops whole columns of time and bands of
frequency, and classifies the mean of the tokens. Sizes are read from an `AudioMAEConfig`.
"""

from functools import partial

import torch
from peer_packages import find_peers
from torch import nn
from torch.nn import functional as F

from uamix_hf import AudioMAEConfig

find_peers()
from timm.layers import PatchEmbed, build_sincos2d_pos_embed  # noqa: E402
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock  # noqa: E402
from timm.models.vision_transformer import Block  # noqa: E402


def pad_to_full(log_mels: torch.Tensor, frames: int) -> torch.Tensor:
    """(batch, shorter, mel bins) to (batch, frames, mel bins), with zeros."""
    return F.pad(log_mels, (0, 0, 0, frames - log_mels.shape[1]))


class Encoder(nn.Module):
    """Patches, positions and the ViT's blocks; stochastic depth rises linearly to `drop_path_rate`."""

    positions: torch.Tensor

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        width, self.grid = config.hidden_size, config.grid_size
        norm = partial(nn.LayerNorm, eps=config.layer_norm_eps)
        frame = (config.max_length, config.num_mel_bins)
        self.patches = PatchEmbed(img_size=frame, patch_size=config.patch_size, in_chans=1, embed_dim=width)
        self.register_buffer("positions", build_sincos2d_pos_embed(list(self.grid), width)[None])
        self.cls_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        ratio, layers = config.intermediate_size / width, config.num_hidden_layers
        rates = torch.linspace(0, config.drop_path_rate, layers).tolist()
        self.blocks = nn.ModuleList(
            Block(width, config.num_attention_heads, ratio, qkv_bias=True, drop_path=rate, norm_layer=norm)
            for rate in rates
        )

    def embed(self, log_mels: torch.Tensor) -> torch.Tensor:
        """(batch, 1024, mel bins) to tokens with positions (batch, tokens, width), time-major."""
        return self.patches(log_mels[:, None]) + self.positions

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens that are left (batch, any number, width), to the same with the class token before them."""
        hidden = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class PeerForPreTraining(nn.Module):
    """The loss of masked pretraining."""

    positions: torch.Tensor

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        self.ratio, self.side = config.mask_ratio, config.patch_size
        self.encoder = Encoder(config)
        norm = partial(nn.LayerNorm, eps=config.layer_norm_eps)
        self.norm = norm(config.hidden_size)
        width, window = config.decoder_hidden_size, config.decoder_window_size
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.register_buffer("positions", build_sincos2d_pos_embed(list(self.encoder.grid), width)[None])
        self.blocks = nn.ModuleList(
            SwinTransformerV2CrBlock(
                width,
                config.decoder_num_attention_heads,
                feat_size=self.encoder.grid,
                window_size=(window, window),
                mlp_ratio=config.decoder_intermediate_size / width,
                init_values=None,
                norm_layer=norm,
            )
            for _ in range(config.decoder_num_hidden_layers)
        )
        for block in self.blocks[1::2]:
            block.shift_size = (window // 2, 0)  # timm's own shift is along both axes
            block.attn_mask = block.get_attn_mask(device=self.positions.device, dtype=self.positions.dtype)
        self.decoder_norm = norm(width)
        self.predict = nn.Linear(width, config.patch_size**2)

    def targets(self, log_mels: torch.Tensor) -> torch.Tensor:
        """Standardised patches (batch, tokens, side x side), their values in order (frame, mel bin)."""
        batch, side = len(log_mels), self.side
        time, mel = self.encoder.grid
        patches = log_mels.reshape(batch, time, side, mel, side).transpose(2, 3).reshape(batch, time * mel, side * side)
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def forward(self, log_mels: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            log_mels: (batch, 1024, mel bins), normalised and padded. noise: (batch, tokens); the patches of least noise
                are seen.
        """
        tokens = self.encoder.embed(log_mels)
        batch, length, _ = tokens.shape
        noise = torch.rand(batch, length) if noise is None else noise
        order = noise.argsort(dim=1)
        kept = int(length * (1 - self.ratio))
        visible = tokens.gather(1, order[:, :kept, None].expand(-1, -1, tokens.shape[2]))
        hidden = self.embed(self.norm(self.encoder(visible)))[:, 1:]
        hidden = torch.cat([hidden, self.mask_token.expand(batch, length - kept, -1)], dim=1)
        place = order.argsort(dim=1)
        hidden = hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[2])) + self.positions
        grid = hidden.unflatten(1, self.encoder.grid)
        for block in self.blocks:
            grid = block(grid)
        predicted = self.predict(self.decoder_norm(grid.flatten(1, 2)))
        error = (predicted - self.targets(log_mels)).square().mean(dim=-1)
        removed = (place >= kept).float()
        return (error * removed).sum() / removed.sum()


class PeerForClassification(nn.Module):
    """Fine-tuning for labels that may be true together; `patchout_*` of the configuration are what training drops."""

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        self.ratios = (config.patchout_time_ratio, config.patchout_mel_ratio)
        self.encoder = Encoder(config)
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.num_labels)

    def drop(self, tokens: torch.Tensor) -> torch.Tensor:
        """Without the columns of time and bands of frequency that are drawn for each clip, (batch, left, width)."""
        grid = tokens.unflatten(1, self.encoder.grid)
        for axis, ratio in enumerate(self.ratios, start=1):
            size = grid.shape[axis]
            order = torch.rand(len(grid), size).argsort(dim=1)[:, : int(size * (1 - ratio))]
            shape = [len(grid), 1, 1, 1]
            shape[axis] = order.shape[1]
            grid = grid.take_along_dim(order.reshape(shape), dim=axis)
        return grid.flatten(1, 2)

    def forward(self, log_mels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of log_mels (batch, 1024, mel bins), normalised and padded, and of 0 or 1 for each label."""
        tokens = self.encoder.embed(log_mels)
        hidden = self.encoder(self.drop(tokens) if self.training else tokens)
        logits = self.head(self.fc_norm(hidden[:, 1:].mean(dim=1)))
        return F.binary_cross_entropy_with_logits(logits, labels)
