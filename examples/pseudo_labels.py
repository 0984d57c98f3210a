"""Tune an audio encoder on pseudo-labels, the clusters of its own embeddings: a baseline for examples/tune.py.

accelerate launch examples/pseudo_labels.py --model_name_or_path audio-mae --train_dir recordings --output_dir tuned \
    --clusters 50

With `--random_weights true`, random weights learn the clusters of the given encoder's embeddings.
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser, set_seed

from uamix_hf import UaMixTrainingArguments, fit_whitening
from uamix_hf.data import DataArguments, prepare
from uamix_hf.data.sources import check_groups
from uamix_hf.embedding import check_whitening, save_encoder
from uamix_hf.embedding.features import embed_features
from uamix_hf.fine_tuning import encoder_of
from uamix_hf.fine_tuning.pseudo_labels import PSEUDO_LABELS_IGNORE, tune_on_pseudo_labels
from uamix_hf.hub.cards import tuned_card
from uamix_hf.hub.module_files import save_module_files
from uamix_hf.hub.push import push_folder
from uamix_hf.metrics.knn import leave_one_out_knn, resolve_neighbours
from uamix_hf.training import EncoderArguments, with_random_weights
from uamix_hf.tuning import METHOD_FIELDS

NEIGHBOURS = 10  # that vote in the kNN check


@dataclass
class ClusterArguments:
    """How pseudo-labels are made."""

    clusters: int = field(default=50, metadata={"help": "Number of clusters."})
    rounds: int = field(
        default=1, metadata={"help": "How often to cluster and train; each round has all steps or epochs."}
    )


def main() -> None:
    parser = HfArgumentParser((EncoderArguments, DataArguments, ClusterArguments, UaMixTrainingArguments))
    parser.set_defaults(recipe="plastic")  # gentle's layer decay and guards have no effect here
    encoder_args, data_args, cluster_args, args = parser.parse_args_into_dataclasses()
    check_groups(data_args.label_column, data_args.group_column)
    set_seed(args.seed)
    random_weights, encoder_args.random_weights = encoder_args.random_weights, False
    encoder, extractor = encoder_args.load_encoder(), encoder_args.load_feature_extractor()
    if args.whiten:
        check_whitening(encoder)  # now, not after hours of training
    with args.main_process_first(desc="log-mels"):
        data = prepare(data_args, extractor)
    if data.label_names:
        labels = data.dataset["labels"][:].numpy()
        neighbours, _ = resolve_neighbours(labels, data.groups, NEIGHBOURS, data.label_names)

    student = with_random_weights(encoder) if random_weights else None
    trainer = tune_on_pseudo_labels(
        encoder, extractor, data.dataset, args.uamix_config(), args.without_hub(),
        cluster_args.clusters, cluster_args.rounds, student,
    )  # fmt: skip
    if not trainer.is_world_process_zero():
        return
    tuned, output = encoder_of(trainer.model), Path(args.output_dir)
    save_encoder(tuned, output, extractor)  # before anything else can fail
    save_module_files(output)
    results = {"train_loss": trainer.state.log_history[-1]["train_loss"]}
    if data.label_names:
        vectors = embed_features(tuned, extractor, data.dataset, batch_size=args.per_device_train_batch_size)
        results["knn_accuracy"] = leave_one_out_knn(vectors, labels, data.groups, neighbours, data.label_names)
        results["knn_neighbours"] = neighbours
    if args.whiten:
        fit_whitening(tuned, extractor, data.dataset)
        save_encoder(tuned, output, extractor)

    settings = {name: getattr(trainer.views, name) for name in sorted(METHOD_FIELDS)} | trainer.args.own_settings()
    settings = {name: value for name, value in settings.items() if name not in PSEUDO_LABELS_IGNORE}
    used = {"seed": args.seed, "updates": trainer.state.global_step, "processes": args.world_size}
    repo_id = args.hub_model_id or output.resolve().name
    card = tuned_card(
        base_model=encoder_args.model_name_or_path,
        data=data_args.source,
        clips=len(data.dataset),
        settings=settings | vars(cluster_args) | used,
        results={name: f"{value:.4g}" for name, value in results.items()},
        repo_id=repo_id if args.push_to_hub else None,
        dataset=data_args.dataset_name,
        objective="pseudo_labels",
        encoder_type=tuned.config.model_type,
        has_code=tuned._auto_class is not None,
        random_weights=random_weights,
    )
    card.save(output / "README.md")
    source = ", which started from random weights," if random_weights else ""
    print(f"Saved the tuned encoder{source} to {output}")
    data.report_skipped()
    if args.push_to_hub:
        print(f"Pushed it: {push_folder(output, repo_id, args.hub_private_repo, args.hub_token)}")


if __name__ == "__main__":
    main()
