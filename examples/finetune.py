"""Fine-tune an Audio-MAE on labelled sound; what comes out loads with AutoModelForAudioClassification.from_pretrained:

python examples/finetune.py --model_name_or_path audio-mae --train_dir recordings --label_column label \
    --eval_fraction 0.2 --output_dir classifier

`--label_separator ';'` for clips of several classes, `--problem_type regression` for a column of numbers, `--k_shot 5
--fixmatch true` for few labels and many clips without.
"""

import dataclasses
import importlib.metadata
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import AutoFeatureExtractor, AutoModel, HfArgumentParser, PreTrainedModel, set_seed

from uamix_hf.data import DataArguments, HeldOutArguments, PreparedData, prepare, split_held_out
from uamix_hf.data.checks import refuse_idle
from uamix_hf.fine_tuning import (
    FineTuningArguments,
    FineTuningTrainer,
    FixMatchArguments,
    FixMatchTrainer,
    LabelArguments,
    check_training_labels,
    draw_shots,
    make_classifier,
    read_targets,
    unlabelled_clips,
    with_labels,
)
from uamix_hf.fine_tuning.metrics import confusion_picture
from uamix_hf.hub.cards import fine_tuned_card
from uamix_hf.hub.push import push_folder
from uamix_hf.training import with_random_weights

SPEED = ("_runtime", "_per_second")  # in results.json alone
PACKAGES = ("uamix_hf", "torch", "transformers", "datasets", "accelerate", "evaluate", "scikit-learn", "numpy")


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "Encoder, pretrained model or classifier: folder or repository."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of that repository."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether to run code that comes with the model."})
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa or eager attention."})
    random_weights: bool = field(
        default=False, metadata={"help": "Whether to train random weights in an encoder of that configuration instead."}
    )
    pooling: Literal["mean", "cls", "mean_fc_norm", "mean_time"] | None = field(
        default=None,
        metadata={
            "help": "Another pooling than the encoder's own, without its whitening; mean_fc_norm is Audio-MAE's for "
            "fine-tuning, a fresh norm after the mean."
        },
    )
    test_where: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Rows for the final report alone: COLUMN=VALUE[,VALUE...]; all conditions must hold.",
            "action": "extend",
        },
    )


def load_encoder(args: ModelArguments, source: dict[str, Any]) -> PreTrainedModel:
    changes = {"pooling": args.pooling, "whitening_size": 0} if args.pooling else {}
    encoder = AutoModel.from_pretrained(**source, attn_implementation=args.attn_implementation, **changes)
    return with_random_weights(encoder) if args.random_weights else encoder


def main() -> None:
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, HeldOutArguments, LabelArguments, FixMatchArguments, FineTuningArguments)
    )
    model_args, data_args, held_out_args, label_args, fixmatch, training_args = parser.parse_args_into_dataclasses()
    if not fixmatch.fixmatch:
        refuse_idle(fixmatch, FixMatchArguments.__annotations__, "--fixmatch true")
    set_seed(training_args.seed)
    os.makedirs(training_args.output_dir, exist_ok=True)

    source = {
        "pretrained_model_name_or_path": model_args.model_name_or_path,
        "revision": model_args.model_revision,
        "trust_remote_code": model_args.trust_remote_code,
    }
    extractor = AutoFeatureExtractor.from_pretrained(**source)
    with training_args.main_process_first(desc="log-mels"):
        data = prepare(data_args, extractor)
    targets = read_targets(data.recordings, data_args.label_column, label_args)
    data = dataclasses.replace(data, dataset=with_labels(data.dataset, targets.values))
    parts: dict[str, PreparedData | None] = {}
    train, parts["test"] = split_held_out(data, HeldOutArguments(eval_where=model_args.test_where), training_args.seed)
    train, parts["eval"] = split_held_out(train, held_out_args, training_args.seed)
    held_out = {name: part.dataset for name, part in parts.items() if part is not None}
    labels = {name: np.asarray(part["labels"][:]) for name, part in held_out.items()}
    check_training_labels(np.asarray(train.dataset["labels"][:]), labels, targets)
    labelled = train
    if label_args.k_shot is not None:
        labelled = draw_shots(train, targets, label_args.k_shot, training_args.seed)
    if fixmatch.fixmatch:
        with training_args.main_process_first(desc="log-mels"):
            unlabelled = unlabelled_clips(fixmatch, data_args, extractor, train, labelled)

    model = make_classifier(
        load_encoder(model_args, source),
        len(targets.names),
        **targets.model_settings(),
        **training_args.model_settings(),
    )
    extractor.truncation = True  # as transformers' own classifiers, for pipelines on long recordings
    # The run's folder holds optimiser and random states; only the finished model is uploaded, below.
    local_args = training_args.without_hub()
    common = (model, local_args, labelled.dataset, extractor)
    if fixmatch.fixmatch:
        trainer = FixMatchTrainer(*common, unlabelled, fixmatch, eval_dataset=held_out.get("eval"))
    else:
        trainer = FineTuningTrainer(*common, eval_dataset=held_out.get("eval"))
    if "eval" not in held_out and trainer.is_world_process_zero():
        print(
            "There are no rows to evaluate on (--eval_fraction, --eval_where): the last weights are kept, not the best."
        )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    output = Path(training_args.output_dir)
    if trainer.is_world_process_zero():
        model.save_pretrained(output)  # before anything else can fail
        extractor.save_pretrained(output)

    found = {name: trainer.predict(part, metric_key_prefix=name) for name, part in held_out.items()}
    if not trainer.is_world_process_zero():
        return
    settings = {**vars(label_args), **vars(held_out_args), **vars(fixmatch), **trainer.args.own_settings()} | {
        "pooling": model.config.pooling,
        "test_where": model_args.test_where,
        "max_steps": training_args.max_steps,
        "seed": training_args.seed,
        "updates": trainer.state.global_step,
        "processes": training_args.world_size,
    }
    results = {name: value for one in found.values() for name, value in one.metrics.items()}
    tree = {
        "model": model_args.model_name_or_path,
        "random_weights": model_args.random_weights,
        "data": data_args.source,
        "problem_type": targets.problem_type,
        "label_names": targets.names,
        "clips": {"train": len(labelled.dataset)} | {name: len(part) for name, part in held_out.items()},
        "results": results,
        "settings": settings,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "skipped": data.skipped,
    }
    (output / "results.json").write_text(json.dumps(tree, indent=2))
    if found and targets.problem_type == "single_label_classification":
        last = next(iter(found.values()))  # of the test rows, where there are any
        confusion_picture(
            output / "confusion_matrix.png", last.label_ids, last.predictions.argmax(axis=1), targets.names
        )
    repo_id = training_args.hub_model_id or output.resolve().name
    card = fine_tuned_card(
        base_model=model_args.model_name_or_path,
        data=data_args.source,
        clips=len(labelled.dataset),
        problem_type=targets.problem_type,
        label_names=targets.names,
        settings=settings,
        results={name: round(value, 4) for name, value in results.items() if not name.endswith(SPEED)},
        repo_id=repo_id if training_args.push_to_hub else None,
        dataset=data_args.dataset_name,
        random_weights=model_args.random_weights,
    )
    card.save(output / "README.md")
    print(f"Saved the classifier to {output}")
    data.report_skipped()
    if training_args.push_to_hub:
        pushed = push_folder(output, repo_id, training_args.hub_private_repo, training_args.hub_token,
                             "Upload the fine-tuned model")  # fmt: skip
        print(f"Pushed it: {pushed}")


if __name__ == "__main__":
    main()
