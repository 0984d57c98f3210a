"""Tune an audio encoder on unlabelled sound with uaMix; what comes out loads with AutoModel.from_pretrained:

accelerate launch examples/tune.py --model_name_or_path audio-mae --train_dir recordings --output_dir tuned
"""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoFeatureExtractor, AutoModel, HfArgumentParser, set_seed

import uamix_hf  # noqa: F401  (makes the Auto classes know Audio-MAE)
from uamix_hf import UaMixForContrastiveTuning, UaMixTrainingArguments
from uamix_hf.data import DataArguments, LogMelCollator, PreparedData, prepare
from uamix_hf.hub.cards import tuned_card
from uamix_hf.hub.push import push_folder
from uamix_hf.tuning import KNNCallback, UaMixTrainer, train_stages, uamix_arguments


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "Encoder to tune: folder or Hub repository."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of that repository."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether to run code that comes with the encoder."}
    )
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa or eager attention."})


def knn_callback(model: UaMixForContrastiveTuning, data: PreparedData, extractor, batch_size: int) -> list[KNNCallback]:
    """The kNN check, where labels are known."""
    if not data.label_names:
        return []
    collator = LogMelCollator(extractor, model.adapter.max_frames, normalize=False)
    return [KNNCallback(data.dataset, collator, data.groups, batch_size=batch_size)]


def save(
    model: UaMixForContrastiveTuning,
    extractor,
    trainer: UaMixTrainer,
    model_args: ModelArguments,
    data_args: DataArguments,
    data: PreparedData,
    args: UaMixTrainingArguments,
) -> None:
    """Encoder, preprocessor and card into the output folder; then, if asked for, onto the Hub."""
    model.encoder.save_pretrained(args.output_dir)
    extractor.save_pretrained(args.output_dir)
    figures: dict[str, float] = {}
    for entry in trainer.state.log_history:
        figures |= {name: value for name, value in entry.items() if isinstance(value, (int, float))}
    shown = (
        "train_loss",
        "loss_clean",
        "loss_mixed",
        "embedding_std",
        "neighbour_purity",
        "knn_accuracy",
        "train_runtime",
    )
    own = {entry.name for entry in dataclasses.fields(UaMixTrainingArguments)} & set(
        UaMixTrainingArguments.__annotations__
    )
    settings = {name: getattr(model.config, name) for name in sorted(uamix_arguments().__dataclass_fields__)}
    settings |= {name: getattr(trainer.args, name) for name in sorted(own)}
    settings |= {"seed": args.seed, "updates": trainer.state.global_step, "processes": args.world_size}
    repo_id = args.hub_model_id or Path(args.output_dir).resolve().name
    card = tuned_card(
        base_model=model_args.model_name_or_path,
        data=data_args.dataset_name or ", ".join([Path(data_args.train_dir).resolve().name, *data_args.where]),
        clips=len(data.dataset),
        settings=settings,
        results={name: f"{figures[name]:.4g}" for name in shown if name in figures},
        repo_id=repo_id if args.push_to_hub else None,
        dataset=data_args.dataset_name,
    )
    card.save(Path(args.output_dir) / "README.md")
    print(f"Saved the tuned encoder to {args.output_dir}")
    if args.push_to_hub:
        print(f"Pushed it: {push_folder(args.output_dir, repo_id, args.hub_private_repo, args.hub_token)}")


def main() -> None:
    parser = HfArgumentParser((ModelArguments, DataArguments, uamix_arguments(), UaMixTrainingArguments))
    model_args, data_args, uamix_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)
    os.makedirs(training_args.output_dir, exist_ok=True)

    source = {
        "pretrained_model_name_or_path": model_args.model_name_or_path,
        "revision": model_args.model_revision,
        "trust_remote_code": model_args.trust_remote_code,
    }
    encoder = AutoModel.from_pretrained(**source, attn_implementation=model_args.attn_implementation)
    extractor = AutoFeatureExtractor.from_pretrained(**source)
    with training_args.main_process_first(desc="log-mels"):
        data = prepare(data_args, extractor)

    model = UaMixForContrastiveTuning.from_encoder(
        encoder,
        input_mean=extractor.mean,
        input_std=extractor.std,
        input_std_factor=extractor.std_factor,
        **vars(uamix_args),
    )
    # The run's folder holds optimiser and random states; only the finished encoder is uploaded, by `save`.
    local_args = dataclasses.replace(training_args, push_to_hub=False)
    callbacks = knn_callback(model, data, extractor, training_args.per_device_train_batch_size)
    trainer = train_stages(model, local_args, data.dataset, extractor, callbacks)
    if trainer.is_world_process_zero():
        save(model, extractor, trainer, model_args, data_args, data, training_args)
        data.report_skipped()


if __name__ == "__main__":
    main()
