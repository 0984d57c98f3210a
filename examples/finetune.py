"""Fine-tune an Audio-MAE on labelled audio; the result loads with AutoModelForAudioClassification.from_pretrained:

python examples/finetune.py --model_name_or_path audio-mae --train_dir recordings --label_column label \
    --eval_fraction 0.2 --output_dir classifier

`--label_separator ';'` for several classes per clip, `--problem_type regression` for a column of numbers, `--k_shot 5
--fixmatch true` for few labels and many clips without.
"""

from dataclasses import dataclass, field
from typing import Literal

from transformers import HfArgumentParser, set_seed

from uamix_hf.data import DataArguments, HeldOutArguments
from uamix_hf.fine_tuning import (
    FineTuningArguments,
    FixMatchArguments,
    LabelArguments,
    fine_tuning_data,
    fine_tuning_trainer,
    make_classifier,
    save_results,
)
from uamix_hf.training import EncoderArguments


@dataclass
class ClassifierArguments(EncoderArguments):
    pooling: Literal["mean", "cls", "mean_fc_norm", "mean_time"] | None = field(
        default=None,
        metadata={
            "help": "Another pooling than the encoder's own, without its whitening; mean_fc_norm is Audio-MAE's for "
            "fine-tuning, a new norm after the mean."
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
    data = fine_tuning_data(data_args, extractor, args, label_args, held_out_args, model_args.test_where, fixmatch)
    encoder = model_args.load_encoder()
    model = make_classifier(encoder, len(data.targets.names), **data.targets.model_settings(), **args.model_settings())

    trainer = fine_tuning_trainer(model, args, data, extractor)
    trainer.train()
    trainer.save_model()  # before anything else can fail
    save_results(trainer, data, model_args.model_name_or_path, model_args.random_weights)
    pushed = trainer.push_to_hub() if args.push_to_hub else None
    if trainer.is_world_process_zero():
        print(f"Saved the classifier to {args.output_dir}")
        data.report_skipped()
        if pushed:
            print(f"Pushed it: {pushed}")


if __name__ == "__main__":
    main()
