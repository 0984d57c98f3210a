"""Tune an audio encoder on unlabelled recordings with uaMix; the result loads with AutoModel.from_pretrained:

accelerate launch examples/tune.py --model_name_or_path audio-mae --train_dir recordings --output_dir tuned

`--lora_r 8` tunes LoRA adapters in the encoder's layers instead of its weights.
`--recipe plastic` is for weak encoders, such as audio-mae-tiny.
Baselines: `--mix none`, without mixtures; `--random_weights true --recipe plastic`, without pretraining;
`--freeze_blocks N` with N the number of the encoder's layers, which tunes its last norm alone; and
examples/pseudo_labels.py.
"""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from uamix_hf import UaMixTrainer, UaMixTrainingArguments
from uamix_hf.data import DataArguments
from uamix_hf.data.checks import refuse_idle
from uamix_hf.training import EncoderArguments, LoraArguments


@dataclass
class EvaluationArguments:
    """Labelled recordings to evaluate the encoder on before and after tuning."""

    eval_dir: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders of labelled audio: few-shot accuracy before and after tuning is measured on them."},
    )
    eval_where: list[str] = field(
        default_factory=list,
        metadata={"help": "Rows of them to use: COLUMN=VALUE[,VALUE...]; all must hold.", "action": "extend"},
    )
    eval_label_column: str = field(default="label", metadata={"help": "Column of their labels."})
    eval_group_column: str | None = field(
        default=None, metadata={"help": "Column of the speaker or source, which labelled and test clips never share."}
    )

    def __post_init__(self) -> None:
        if not self.eval_dir:
            refuse_idle(self, ("eval_where", "eval_label_column", "eval_group_column"), "eval_dir")


def main() -> None:
    parser = HfArgumentParser(
        (EncoderArguments, LoraArguments, DataArguments, EvaluationArguments, UaMixTrainingArguments)
    )
    encoder_args, lora_args, data_args, eval_args, training_args = parser.parse_args_into_dataclasses()
    trainer = UaMixTrainer(encoder_args, training_args, data_args, lora=lora_args)
    trainer.train()
    if trainer.writes:
        source = ", which started from random weights," if encoder_args.random_weights else ""
        print(f"Saved the tuned encoder{source} to {training_args.output_dir}")
        trainer.data.report_skipped()
    if eval_args.eval_dir:
        evaluation = trainer.evaluate(
            eval_args.eval_dir, eval_args.eval_label_column, eval_args.eval_group_column, where=eval_args.eval_where
        )
        if trainer.writes:
            print(f"Before and after tuning, mean and 95 % interval on {evaluation.clips} clips:\n{evaluation}")
    if trainer.hub_url:
        print(f"Pushed it: {trainer.hub_url}")


if __name__ == "__main__":
    main()
