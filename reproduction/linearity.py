"""How much of a mixture's embedding is the blend of its clips' embeddings, for each pooling: what a mixture can teach.

python reproduction/linearity.py --model_name_or_path model_cards/audio-mae-tiny --data ../shared/data

Prints a Markdown table of R2 = 1 - |mixture - blend|^2 / |mixture - mean of mixtures|^2, summed over pairs of
validation clips, with 95 % intervals by bootstrap over the pairs. The blend has the mixture's lambda. With an R2 of 1
an encoder that is not trained does already what the loss on mixtures asks of it.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from recipe import GROUPS, SHOTS, measured_rows, training_clips
from scipy.stats import bootstrap
from torch.nn import functional as F
from transformers import HfArgumentParser, set_seed

from uamix_hf.data import FeatureCollator, cached_features, column_as_text, load_recordings, read_groups
from uamix_hf.embedding import load_encoder, load_feature_extractor, make_adapter
from uamix_hf.embedding.audio_mae import AudioMAEAdapter
from uamix_hf.embedding.kinds import front_end_of
from uamix_hf.embedding.whitening import SIZE, whitening_of
from uamix_hf.evaluation import few_shot_accuracy
from uamix_hf.models.audio_mae.pooling_audio_mae import group_statistics, token_weights
from uamix_hf.tuning import UaMixConfig, mixing
from uamix_hf.tuning.defaults import resolve_for_encoder

BATCH = 16
MIXES = ("t-cutmix", "mixup")
POOLINGS = ("cls", "mean", "mean_time", "max_time", "mean_std_time", "std_time")


@dataclass
class LinearityArguments:
    model_name_or_path: str = field(metadata={"help": "Encoder."})
    embedding_layer: int | None = field(default=None, metadata={"help": "Its layer, from 1 on; the last if unset."})
    data: str = field(default="../shared/data", metadata={"help": "Folder that holds the four sets."})
    sets: list[str] = field(
        default_factory=lambda: ["esc10", "speech_commands_sub"], metadata={"help": "Sets whose clips are mixed."}
    )
    pairs: int = field(default=200, metadata={"help": "Most pairs of a set; each clip is mixed once."})
    episodes: int = field(default=600, metadata={"help": "Few-shot episodes for each set and number of shots."})
    seed: int = field(default=0, metadata={"help": "Of partners, lambdas, segments and intervals."})


@dataclass
class Tokens:
    """Tokens of a batch of clips.

    Args:
        prefix: Tokens before those of patches (batch, prefix, hidden).
        patches: (batch, time * bands, hidden), all bands of one time after the other.
        visible: Tokens of audio, 1 or 0 (batch, time, bands).
        weight: Weight of each token in the band that it belongs to (batch, time * bands, bands).
    """

    prefix: torch.Tensor
    patches: torch.Tensor
    visible: torch.Tensor
    weight: torch.Tensor

    def poolings(self, share: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Embeddings (batch, dimensions) by name of the pooling.

        Args:
            share: Weights of the tokens (batch, time * bands), 0 for those to leave out; 1 by default. A class token
                is of all tokens, so that it has no embedding of some of them.
        """
        visible, weight = self.visible.flatten(1)[..., None], self.weight
        found = {}
        if share is not None:
            visible, weight = visible * share[..., None], weight * share[..., None]
        elif self.prefix.shape[1]:
            found["cls"] = self.prefix[:, 0]
        found["mean"] = group_statistics(self.patches, visible, deviations=False)
        both = group_statistics(self.patches, weight, deviations=True)
        means, deviations = both.chunk(2, dim=1)
        if weight.shape[2] > 1:
            found["mean_time"] = means
        inside = (weight > 0)[..., None]
        found["max_time"] = self.patches[:, :, None].masked_fill(~inside, -torch.inf).amax(dim=1)
        found |= {"mean_std_time": both, "std_time": deviations}
        return {name: vectors.flatten(1) for name, vectors in found.items()}


class Encoder:
    """An encoder that shows its tokens.

    Args:
        args: Which one.
    """

    def __init__(self, args: LinearityArguments):
        self.front_end = load_feature_extractor(args.model_name_or_path)
        model = load_encoder(args.model_name_or_path, layer=args.embedding_layer).eval()
        self.front_end = front_end_of(model, self.front_end)
        self.adapter = make_adapter(model)
        self.adapter.check_fit(self.front_end)
        if not self.adapter.time_first or not self.adapter.variable_length:
            raise TypeError(f"{type(model).__name__}: tokens of all clips, time first, are needed.")
        self.collator = FeatureCollator(self.front_end, self.front_end.max_length, normalize=True)

    def batches(self, clips: Dataset, order: np.ndarray) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields the normalised log-mels of clips (batch, frames, mel bins), and their frames (batch,)."""
        for rows in np.split(order, range(BATCH, len(order), BATCH)):
            features = [clips[int(row)]["features"].float()[: self.front_end.max_length] for row in rows]
            batch = self.collator.pad(features, [0] * len(features))
            yield batch["input_values"], batch["attention_mask"].sum(dim=1)

    @torch.inference_mode()
    def tokens(self, values: torch.Tensor, lengths: torch.Tensor) -> Tokens:
        """The tokens of normalised log-mels (batch, frames, mel bins)."""
        output, visible = self.adapter.run(values, lengths, 0.0, self.front_end.padding_value)
        assert visible is not None
        hidden = output.last_hidden_state.float()
        prefix, patches = hidden.split([hidden.shape[1] - visible[0].numel(), visible[0].numel()], dim=1)
        bands = torch.eye(visible.shape[2]).repeat(visible.shape[1], 1)  # time first
        weight = bands * visible.flatten(1)[..., None]
        if isinstance(self.adapter, AudioMAEAdapter):  # whose pooling over time weights tokens by their frames
            config: Any = copy.copy(self.adapter.base.config)
            config.pooling = "mean_time"
            mask = (torch.arange(values.shape[1]) < lengths[:, None]).long()
            weight = token_weights(patches, visible.flatten(1) > 0, mask, None, config)
        return Tokens(prefix, patches, visible, weight)


def mixed(encoder: Encoder, clips: Dataset, mix: str, pairs: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Embeddings of mixtures and blends.

    Returns:
        By pooling, rows of pairs: `mixture`, `clips`, the blend of both whole clips, and for `"t-cutmix"` `parts`, the
        blend of the poolings over those tokens of the clips alone that are in the mixture.
    """
    set_seed(seed)
    config = UaMixConfig(encoder_config=copy.deepcopy(encoder.adapter.base.config), mix=mix)
    resolve_for_encoder(config, encoder.adapter)
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    order = torch.randperm(len(clips)).numpy()[:pairs]
    for values, lengths in encoder.batches(clips, order):
        partner = mixing.draw_partners(len(values), config.pairing)
        mask = mixing.draw_mix_mask(config, lengths, partner, values.shape[1], values.shape[2])
        alone, mixture = encoder.tokens(values, lengths), encoder.tokens(mixing.mix(values, partner, mask), lengths)
        patch, strides = encoder.adapter.patch_shape, encoder.adapter.strides
        lam = mixing.token_lambda(mask, mixture.visible, patch, strides)
        keep = lam < 1  # of clips that are too short, nothing is mixed
        whole = alone.poolings()
        embeddings = {"mixture": mixture.poolings(), "clips": blend(lam, whole, partner, whole)}
        if mix == "t-cutmix":
            own = F.avg_pool1d(mask.mT, patch[0], strides[0])[:, 0].repeat_interleave(mixture.visible.shape[2], dim=1)
            theirs = torch.zeros_like(own)
            theirs[partner] = 1 - own
            embeddings["parts"] = blend(lam, alone.poolings(own), partner, alone.poolings(theirs))
        for name, by_pooling in embeddings.items():
            for pooling, vectors in by_pooling.items():
                found.setdefault(pooling, {}).setdefault(name, []).append(vectors[keep].numpy())
    return {pooling: {name: np.concatenate(parts) for name, parts in kinds.items()} for pooling, kinds in found.items()}


def blend(
    lam: torch.Tensor, own: dict[str, torch.Tensor], partner: torch.Tensor, theirs: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """`lam * own + (1 - lam) * theirs[partner]`, by pooling."""
    return {name: lam[:, None] * own[name] + (1 - lam[:, None]) * theirs[name][partner] for name in own}


def explained(mixture: np.ndarray, blended: np.ndarray, seed: int) -> str:
    """R2 of the blend with its 95 % interval over pairs."""
    errors = ((mixture - blended) ** 2).sum(axis=1)
    variances = ((mixture - mixture.mean(axis=0)) ** 2).sum(axis=1)

    def r2(errors: np.ndarray, variances: np.ndarray, axis: int = -1) -> np.ndarray:
        return 1 - errors.sum(axis=axis) / variances.sum(axis=axis)

    interval = bootstrap(
        (errors, variances), r2, paired=True, n_resamples=2000, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return f"{r2(errors, variances):.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def embedded(encoder: Encoder, clips: Dataset) -> dict[str, np.ndarray]:
    """Embeddings of clips, in their order, by pooling."""
    order = np.argsort(np.asarray(clips["length"][:]), kind="stable")
    parts: dict[str, list[np.ndarray]] = {}
    for values, lengths in encoder.batches(clips, order):
        for name, vectors in encoder.tokens(values, lengths).poolings().items():
            parts.setdefault(name, []).append(vectors.numpy())
    return {name: np.concatenate(vectors)[np.argsort(order)] for name, vectors in parts.items()}


def accuracies(args: LinearityArguments, encoder: Encoder, sets: dict[str, Any]) -> dict[str, str]:
    """Few-shot accuracy in % by pooling, mean over the sets, whitened on the training rows."""
    learnt = embedded(encoder, training_clips(args, {}, encoder.front_end))
    whitenings = {name: whitening_of(vectors, min(SIZE, vectors.shape[1])) for name, vectors in learnt.items()}
    found: dict[str, list[list[float]]] = {}
    for name, recordings in sets.items():
        labels = np.unique(column_as_text(recordings, "label"), return_inverse=True)[1]
        groups = read_groups(recordings, GROUPS[name])
        for pooling, vectors in embedded(encoder, cached_features(recordings, encoder.front_end).dataset).items():
            mean, matrix = whitenings[pooling]
            whitened = (vectors - mean) @ matrix
            scores = [
                few_shot_accuracy(whitened, labels, groups, k_shot=k, episodes=args.episodes, seed=0).mean
                for k in SHOTS
            ]
            found.setdefault(pooling, []).append(scores)
    return {name: " / ".join(f"{100 * mean:.1f}" for mean in np.mean(scores, axis=0)) for name, scores in found.items()}


def main() -> None:
    (args,) = HfArgumentParser(LinearityArguments).parse_args_into_dataclasses()
    encoder = Encoder(args)
    rows = measured_rows(Path(args.data), "validation")
    sets = {name: load_recordings(str(Path(args.data) / name), where=where) for name, where in rows.items()}
    columns: dict[str, dict[str, str]] = {}
    for name in args.sets:
        clips = cached_features(sets[name], encoder.front_end).dataset
        for mix in MIXES:
            for pooling, vectors in mixed(encoder, clips, mix, args.pairs, args.seed).items():
                for blended in ("clips", "parts"):
                    if blended in vectors:
                        cell = explained(vectors["mixture"], vectors[blended], args.seed)
                        columns.setdefault(f"{name}: {mix}, {blended}", {})[pooling] = cell
    columns[f"{' / '.join(f'{k}-shot' for k in SHOTS)}"] = accuracies(args, encoder, sets)
    print(f"| pooling | {' | '.join(columns)} |")
    print("|" + "---|" * (len(columns) + 1))
    for pooling in POOLINGS:
        cells = [column.get(pooling, "-") for column in columns.values()]
        if any(cell != "-" for cell in cells):
            print(f"| {pooling} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
