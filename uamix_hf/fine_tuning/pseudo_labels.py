"""Tuning on pseudo-labels: the encoder learns to predict the cluster of its own embeddings that each clip is in.

A baseline for uaMix: UnFuSeD (Seth et al. 2023, arXiv 2303.05668), without its distillation between the exits of a
convolutional network, and with uaMix's views as augmentation.
"""

import copy
import dataclasses
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize
from torch import nn
from transformers import PreTrainedModel, set_seed

from ..data import FeatureCollator
from ..embedding.features import embed_features
from ..embedding.kinds import make_adapter
from ..models.front_ends import FrontEnd
from ..training.arguments import LayerwiseArguments
from ..training.augmentations import ViewSettings, checked_token_drop, resolve_resize_mel, resolve_token_drop, two_views
from ..training.trainer import LengthBucketTrainer
from .labels import labelled_rows
from .models import adapter_of, encoder_of, freeze, longest_window, make_classifier

# Fields of UaMixConfig and of UaMixTrainingArguments without effect here.
UNUSED_FIELDS = (
    "layers_path", "mix", "mix_alpha", "mix_probability", "mix_per_sample", "mix_dominant", "mix_align", "mix_position",
    "pairing", "symmetric_mix", "mix_weight", "decorrelation_weight", "projector_hidden_size", "projection_size",
    "predictor_hidden_size", "queue_size", "topk", "temperature", "ema_momentum",
)  # fmt: skip
UNUSED_ARGUMENTS = (
    "head_steps", "head_epochs", "head_learning_rate", "head_weight_decay", "layer_decay", "encoder_batch_size",
    "knn_steps", "guard", "guard_fraction", "guard_steps", "interpolate", "resume_from_checkpoint", "save_steps",
    "save_total_limit", "save_only_model", "enable_jit_checkpoint",
)  # fmt: skip
# Of those, a recipe sets these, which have no effect at these values alone.
WITHOUT_EFFECT = {"layer_decay": 1.0, "guard": "off"}
PSEUDO_LABELS_IGNORE = UNUSED_FIELDS + UNUSED_ARGUMENTS


def refuse_unused(config: ViewSettings, args: LayerwiseArguments) -> None:
    """Check that settings without effect here are at their defaults.

    Raises:
        ValueError: one is not, or the recipe sets one.
    """
    fields: Any = type(config).__dataclass_fields__  # type: ignore[attr-defined]
    changed = [name for name in UNUSED_FIELDS if getattr(config, name) != fields[name].default]
    changed += [name for name in UNUSED_ARGUMENTS if name not in WITHOUT_EFFECT and args.is_given(name)]
    if changed:
        raise ValueError(f"Tuning on pseudo-labels does not use {', '.join(changed)}: leave it at the default.")
    by_recipe = [name for name, value in WITHOUT_EFFECT.items() if getattr(args, name) != value]
    if by_recipe:
        raise ValueError(f"Tuning on pseudo-labels does not use {' and '.join(by_recipe)}: choose recipe=plastic.")


def cluster(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Cluster number of each clip (clips,) int64, by k-means on centred, L2-normalised embeddings.

    Args:
        vectors: Embeddings, float (clips, embedding_size).
        clusters: Number of clusters.
        seed: Random seed of k-means.

    Raises:
        ValueError: more clusters than distinct embeddings, or embeddings that are not finite.
    """
    unit = normalize(vectors - vectors.mean(axis=0))
    distinct = len(np.unique(unit, axis=0))
    if distinct < clusters:
        raise ValueError(f"clusters={clusters}: the clips have only {distinct} different embeddings. Lower clusters.")
    return KMeans(clusters, n_init=10, random_state=seed).fit_predict(unit).astype(np.int64)


class PseudoLabelTrainer(LengthBucketTrainer):
    """Trainer of one round: cross-entropy on both views of each clip, with tokens dropped as in uaMix.

    Args:
        model: Of [`make_classifier`].
        args: Training arguments.
        train_dataset: Log-mels with `labels`.
        feature_extractor: Normalises and pads; saved with the model.
        config: Settings of the views, and `token_drop`.
        frozen: Modules of the model that are kept in evaluation mode.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: LayerwiseArguments,
        train_dataset: Dataset,
        feature_extractor: FrontEnd,
        config: ViewSettings,
        frozen: list[nn.Module],
    ):
        self.views = config
        self.frozen = frozen
        self.feature_extractor = feature_extractor
        self.max_frames = longest_window(model, feature_extractor)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            # Views crop further: two different parts of a long recording.
            data_collator=FeatureCollator(feature_extractor, 2 * self.max_frames, normalize=False, seed=args.seed),
            processing_class=feature_extractor,
        )

    def augment(self, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Views of raw log-mels (batch, frames, mel bins), as model inputs (2 * batch, view frames, mel bins)."""
        extractor = self.feature_extractor
        view_a, view_b, lengths = two_views(
            batch["input_values"], batch["attention_mask"].sum(1), self.views, extractor.patch_size, self.max_frames,
            extractor.domain,
        )  # fmt: skip
        frames = extractor.whole_patches(view_a.shape[1], up=False)
        views = extractor.normalize(torch.cat([view_a, view_b])[:, :frames])
        valid = torch.arange(views.shape[1], device=views.device) < lengths.repeat(2)[:, None]
        return {
            "input_values": views.masked_fill(~valid[..., None], extractor.padding_value),
            "attention_mask": valid.long(),
            "labels": batch["labels"].repeat(2),
            "mask_ratio": self.views.token_drop or None,
        }

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args, **kwargs) -> Any:
        for module in self.frozen:
            module.eval()  # the Trainer puts the whole model into training mode at each step
        return super().compute_loss(model, self.augment(inputs), *args, **kwargs)


def tune_on_pseudo_labels(
    encoder: PreTrainedModel,
    feature_extractor: FrontEnd,
    dataset: Dataset,
    config: ViewSettings,
    args: LayerwiseArguments,
    clusters: int,
    rounds: int = 1,
    student: PreTrainedModel | None = None,
) -> PseudoLabelTrainer:
    """Cluster the clips, and train a copy of the encoder and a linear layer to predict the clusters; repeat.

    Args:
        encoder: Embeds whole clips for the clustering; left as it is, except for its device.
        feature_extractor: Normalises and pads.
        dataset: Log-mels of [`prepare`]; `labels` are not read.
        config: Settings of the views (crop, gain, equaliser, ...), and `token_drop`; other fields must be at their
            defaults.
        args: Training arguments. `max_steps` or `num_train_epochs` are those of each round, `learning_rate` is also
            that of the linear layer. Nothing is saved.
        clusters: Number of clusters.
        rounds: How often to cluster and train; after the first round, the trained encoder embeds the clips.
        student: Encoder to train a copy of instead of `encoder`, such as one of random weights.

    Returns:
        Trainer of the last round; the tuned encoder is [`encoder_of`]`(trainer.model)`, the resolved `config` is
        `trainer.views`.

    Raises:
        ValueError: a setting without effect or meaning for the encoder, no rounds, or an impossible number of clusters.
        EncoderError: an encoder that does not meet the contract of its adapter.
    """
    refuse_unused(config, args)
    if not 2 <= clusters <= len(dataset):
        raise ValueError(f"clusters={clusters}: between 2 and the number of clips, {len(dataset)}, are possible.")
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: at least one is needed.")
    args = dataclasses.replace(args, save_strategy="no", dataloader_drop_last=False)
    config = copy.deepcopy(config)
    trained = encoder if student is None else student
    config.token_drop = checked_token_drop(config.token_drop, make_adapter(trained))
    config.token_drop = resolve_token_drop(config, dataset, feature_extractor)
    config.resize_mel = resolve_resize_mel(config.resize_mel, feature_extractor.domain)
    for _ in range(rounds):
        set_seed(args.seed)
        model: Any = make_classifier(trained, clusters, feature_extractor)
        adapter = adapter_of(model)
        frozen = freeze(model.base_model, args.frozen_blocks(len(adapter.layers)), adapter.layers_path)
        encoder.to(args.device)  # type: ignore[arg-type]
        vectors = embed_features(encoder, feature_extractor, dataset, batch_size=args.train_batch_size)
        # Processes that number the clusters each in its own way would train one another's labels away.
        (labels,) = broadcast_object_list([cluster(vectors, clusters, args.seed)])
        rows = labelled_rows(dataset, np.arange(len(dataset)), labels, clusters)
        trainer = PseudoLabelTrainer(model, args, rows, feature_extractor, config, frozen)
        trainer.train()
        model.base_model.config = copy.deepcopy(trained.config)  # the classifier's names its classes
        encoder = trained = encoder_of(model)
    return trainer


__all__ = ["PSEUDO_LABELS_IGNORE", "PseudoLabelTrainer", "cluster", "tune_on_pseudo_labels"]
