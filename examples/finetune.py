"""Fine-tune an audio encoder on labelled audio; the result loads with AutoModelForAudioClassification.from_pretrained:

python examples/finetune.py --model_name_or_path audio-mae --train_dir recordings --label_column label \
    --eval_fraction 0.2 --output_dir classifier

`--label_separator ';'` for several classes per clip, `--problem_type regression` for a column of numbers, `--k_shot 5
--fixmatch true` for few labels and many clips without.
"""

from dataclasses import dataclass, field

from transformers import HfArgumentParser, set_seed

from uamix_hf.data import DataArguments, HeldOutArguments
from uamix_hf.fine_tuning import (
    FineTuningArguments,
    FixMatchArguments,
    LabelArguments,
    copy_trained_head,
    fine_tuning_data,
    fine_tuning_trainer,
    make_classifier,
    save_results,
)
from uamix_hf.training import EncoderArguments


@dataclass
class ClassifierArguments(EncoderArguments):
    pooling: str | None = field(
        default=None,
        metadata={
            "help": "Another pooling than the encoder's own, without its whitening. Audio-MAE has mean, cls, "
            "mean_time, mean_std_time, std_time, attention_time, which learns weights of the tokens, and mean_fc_norm, "
            "which has a new norm after the mean."
        },
    )
    test_where: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Rows for the final report only: COLUMN=VALUE[,VALUE...]; all conditions must hold.",
            "action": "extend",
        },
    )


def main() -> None:
    parser = HfArgumentParser(
        (ClassifierArguments, DataArguments, HeldOutArguments, LabelArguments, FixMatchArguments, FineTuningArguments)
    )
    model_args, data_args, held_out_args, label_args, fixmatch, args = parser.parse_args_into_dataclasses()
    set_seed(args.seed)

    extractor = model_args.load_feature_extractor()
    encoder = model_args.load_encoder()
    settings = args.model_settings(encoder)  # checked before the data are read
    data = fine_tuning_data(data_args, extractor, args, label_args, held_out_args, model_args.test_where, fixmatch)
    model = make_classifier(encoder, len(data.targets.names), extractor, **data.targets.model_settings(), **settings)
    if args.head_init in (None, "keep") and not model_args.random_weights:
        copy_trained_head(model, **model_args.source)  # of a classifier that is trained further

    trainer = fine_tuning_trainer(model, args, data, extractor)
    trainer.train()
    trainer.save_model()  # before anything else can fail
    save_results(trainer, data, model_args.model_name_or_path, model_args.random_weights)
    pushed = trainer.push_to_hub() if args.push_to_hub else None
    if trainer.is_world_process_zero():
        print(f"Saved the classifier to {args.output_dir}")
        if comparison := trainer.frozen_comparison():
            print(f"Evaluation rows: {comparison}")
        data.report_skipped()
        if pushed:
            print(f"Pushed it: {pushed}")


if __name__ == "__main__":
    main()
