"""Tune an audio encoder on unlabelled sound with uaMix; what comes out loads with AutoModel.from_pretrained:

accelerate launch examples/tune.py --model_name_or_path audio-mae --train_dir recordings --output_dir tuned

To compare it with: `--objective pseudo_labels`, which learns the clusters of the encoder's own embeddings;
`--random_weights`, the same tuning without the pretraining; and head-only tuning, `--freeze_blocks N` with N the number
of the encoder's blocks. Of the encoder, that trains what follows the blocks alone: weight and bias of its last norm.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers import AutoFeatureExtractor, AutoModel, HfArgumentParser, PreTrainedModel, Trainer, set_seed

from uamix_hf import AudioMAEModel, UaMixConfig, UaMixForContrastiveTuning, UaMixTrainingArguments, fit_whitening
from uamix_hf.data import DataArguments, LogMelCollator, PreparedData, prepare
from uamix_hf.data.checks import refuse_idle
from uamix_hf.embedding.log_mels import embed_log_mels
from uamix_hf.fine_tuning.pseudo_labels import PSEUDO_LABELS_IGNORE, tune_on_pseudo_labels
from uamix_hf.hub.cards import tuned_card
from uamix_hf.hub.push import push_folder
from uamix_hf.metrics.knn import leave_one_out_knn, resolve_neighbours
from uamix_hf.training import with_random_weights
from uamix_hf.tuning import KNNCallback, train_stages, uamix_arguments

SHOWN = ("train_loss", "loss_clean", "loss_mixed", "embedding_std", "neighbour_purity", "knn_accuracy",
         "knn_neighbours", "train_runtime")  # fmt: skip
NEIGHBOURS = 10  # that vote in the check of labelled clips


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "Encoder to tune: folder or Hub repository."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of that repository."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether to run code that comes with the encoder."}
    )
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa or eager attention."})
    random_weights: bool = field(
        default=False, metadata={"help": "Whether to train random weights in an encoder of that configuration instead."}
    )
    whiten: bool = field(
        default=True, metadata={"help": "Whether to whiten the tuned encoder's embedding over the training clips."}
    )
    objective: Literal["uamix", "pseudo_labels"] = field(
        default="uamix", metadata={"help": "What is learnt: uamix, or clusters of the given encoder's embeddings."}
    )
    clusters: int = field(default=50, metadata={"help": "With pseudo_labels: how many clusters."})
    rounds: int = field(
        default=1,
        metadata={"help": "With pseudo_labels: how often to cluster and train; each has all steps or epochs."},
    )

    def __post_init__(self) -> None:
        if self.objective == "uamix":
            refuse_idle(self, ("clusters", "rounds"), "objective=pseudo_labels")


def tune(
    encoder: PreTrainedModel,
    extractor: Any,
    data: PreparedData,
    model_args: ModelArguments,
    uamix_args: Any,
    args: UaMixTrainingArguments,
) -> tuple[PreTrainedModel, Trainer, UaMixConfig]:
    """The tuned encoder, the trainer with its log, and the method's configuration."""
    start = with_random_weights(encoder) if model_args.random_weights else encoder
    batch_size = args.per_device_train_batch_size
    if model_args.objective == "pseudo_labels":
        config = UaMixConfig(**vars(uamix_args))
        known = data.dataset["labels"][:].numpy() if data.label_names else None
        if known is not None:  # now, not after hours of training
            neighbours, _ = resolve_neighbours(known, data.groups, NEIGHBOURS, data.label_names)
        trainer = tune_on_pseudo_labels(
            encoder, extractor, data.dataset, config, args, model_args.clusters, model_args.rounds, start
        )
        tuned = trainer.model.audio_mae
        if known is not None:
            vectors = embed_log_mels(tuned, extractor, data.dataset, batch_size=batch_size)
            accuracy = leave_one_out_knn(vectors, known, data.groups, neighbours, data.label_names)
            trainer.log({"knn_accuracy": accuracy, "knn_neighbours": neighbours})
        return tuned, trainer, trainer.views
    model = UaMixForContrastiveTuning.from_encoder(
        start, input_mean=extractor.mean, input_std=extractor.std, input_std_factor=extractor.std_factor,
        **vars(uamix_args),
    )  # fmt: skip
    collator = LogMelCollator(extractor, model.adapter.max_frames, normalize=False)
    checks = []
    if data.label_names:
        checks = [KNNCallback(data.dataset, collator, data.groups, NEIGHBOURS, batch_size, data.label_names)]
    return model.encoder, train_stages(model, args, data.dataset, extractor, checks), model.config


def settings(config: UaMixConfig, model_args: ModelArguments, args: UaMixTrainingArguments) -> dict[str, Any]:
    """Of the method, and the arguments with a default or a meaning of their own here; those that were used."""
    method = {name: getattr(config, name) for name in sorted(uamix_arguments().__dataclass_fields__)}
    values = method | args.own_settings()
    if model_args.objective == "pseudo_labels":
        values = {name: value for name, value in values.items() if name not in PSEUDO_LABELS_IGNORE}
        values |= {"clusters": model_args.clusters, "rounds": model_args.rounds}
    return values


def save(
    encoder: PreTrainedModel,
    extractor: Any,
    trainer: Trainer,
    config: UaMixConfig,
    model_args: ModelArguments,
    data_args: DataArguments,
    data: PreparedData,
    args: UaMixTrainingArguments,
) -> None:
    """Encoder, preprocessor and card into the output folder; then, if asked for, onto the Hub."""
    encoder.save_pretrained(args.output_dir)  # before anything else can fail
    extractor.save_pretrained(args.output_dir)
    if model_args.whiten:
        fit_whitening(encoder, extractor, data.dataset)
        encoder.save_pretrained(args.output_dir)
    figures: dict[str, float] = {}
    for entry in trainer.state.log_history:
        figures |= {name: value for name, value in entry.items() if isinstance(value, (int, float))}
    used = settings(config, model_args, trainer.args)
    used |= {
        "whiten": model_args.whiten,
        "seed": args.seed,
        "updates": trainer.state.global_step,
        "processes": args.world_size,
    }
    repo_id = args.hub_model_id or Path(args.output_dir).resolve().name
    card = tuned_card(
        base_model=model_args.model_name_or_path,
        data=data_args.source,
        clips=len(data.dataset),
        settings=used,
        results={name: f"{figures[name]:.4g}" for name in SHOWN if name in figures},
        repo_id=repo_id if args.push_to_hub else None,
        dataset=data_args.dataset_name,
        objective=model_args.objective,
        random_weights=model_args.random_weights,
    )
    card.save(Path(args.output_dir) / "README.md")
    source = ", which started from random weights," if model_args.random_weights else ""
    print(f"Saved the tuned encoder{source} to {args.output_dir}")
    if args.push_to_hub:
        print(f"Pushed it: {push_folder(args.output_dir, repo_id, args.hub_private_repo, args.hub_token)}")


def main() -> None:
    parser = HfArgumentParser((ModelArguments, DataArguments, uamix_arguments(), UaMixTrainingArguments))
    model_args, data_args, uamix_args, training_args = parser.parse_args_into_dataclasses()
    if data_args.group_column and not data_args.label_column:
        raise ValueError("group_column says whose neighbours do not count in the kNN check: give --label_column, too.")
    set_seed(training_args.seed)
    os.makedirs(training_args.output_dir, exist_ok=True)

    source = {
        "pretrained_model_name_or_path": model_args.model_name_or_path,
        "revision": model_args.model_revision,
        "trust_remote_code": model_args.trust_remote_code,
    }
    encoder = AutoModel.from_pretrained(**source, attn_implementation=model_args.attn_implementation)
    if model_args.whiten and not isinstance(encoder, AudioMAEModel):  # now, not after hours of training
        raise TypeError(f"{type(encoder).__name__} has no place for a whitening: add --whiten false.")
    extractor = AutoFeatureExtractor.from_pretrained(**source)
    with training_args.main_process_first(desc="log-mels"):
        data = prepare(data_args, extractor)

    # The run's folder holds optimiser and random states; only the finished encoder is uploaded, by `save`.
    local_args = training_args.without_hub()
    tuned, trainer, config = tune(encoder, extractor, data, model_args, uamix_args, local_args)
    if trainer.is_world_process_zero():
        save(tuned, extractor, trainer, config, model_args, data_args, data, training_args)
        data.report_skipped()


if __name__ == "__main__":
    main()
