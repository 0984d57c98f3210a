"""The whole job in three minutes: tune a small pretrained Audio-MAE with uaMix, and see how far few labels go.

Without --data_dir, on a corpus of sound events that is rendered on the spot. With it, on a labelled folder of sound:

python examples/demo/demo.py --output_dir demo_output --data_dir esc10 --train_where fold=1,2,3 --test_where fold=4,5
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from sound_events import write_corpus
from transformers import HfArgumentParser

from uamix_hf.data import load_recordings

EXAMPLES = Path(__file__).parents[1]
CHECKPOINT = EXAMPLES.parent / "model_cards" / "audio-mae-tiny"
STRONG = EXAMPLES.parent / "model_cards" / "uamix-whisper-tiny.en"


@dataclass
class DemoArguments:
    output_dir: str = field(default="demo_output", metadata={"help": "Where everything goes."})
    model_name_or_path: str = field(default=str(CHECKPOINT), metadata={"help": "Pretrained encoder to tune."})
    data_dir: str | None = field(default=None, metadata={"help": "Labelled folder of sound; rendered events if unset."})
    train_where: list[str] = field(default_factory=list, metadata={"help": "Rows to tune on.", "action": "extend"})
    test_where: list[str] = field(default_factory=list, metadata={"help": "Rows of the check.", "action": "extend"})
    label_column: str = field(default="label", metadata={"help": "Column of the labels; only the check reads it."})
    group_column: str | None = field(default=None, metadata={"help": "What support and query must not share."})
    clips_per_class: int = field(default=40, metadata={"help": "Of the rendered corpus."})
    head_steps: int = field(default=20, metadata={"help": "Updates of the heads on the frozen encoder."})
    tune_steps: int = field(default=60, metadata={"help": "Updates of tuning."})
    episodes: int = field(default=600, metadata={"help": "Few-shot episodes."})
    seed: int = field(default=0, metadata={"help": "Of the corpus, the weights, the training and the episodes."})


def run(script: str, *arguments: object, launcher: bool = True) -> None:
    """Runs an example as its users would; accelerate's defaults are said, so that no configuration is asked for."""
    command = [sys.executable]
    if launcher:
        command += ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    # Two threads, since these tensors are large enough to gain from a second one, but not from more. They sleep while
    # they wait: threads that spin, as OpenMP's do by default, burn their share of a busy machine (docs/performance.md).
    environment = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"} | os.environ
    subprocess.run([*command, str(EXAMPLES / script), *map(str, arguments)], check=True, env=environment)


def choose_rows(args: DemoArguments, data: str) -> tuple[list[str], list[str], str]:
    """Conditions for training and test rows, and a remark for the table.

    Five folds, as in ESC, split 3 to 2. Where there are none, the labels still serve the check alone.
    """
    if args.train_where or args.test_where:
        return args.train_where, args.test_where, ""
    if "fold" in load_recordings(data).column_names:
        return ["fold=1,2,3"], ["fold=4,5"], ""
    return (
        [],
        [],
        "Tuned and tested on the same recordings; labels served the test alone. Give TRAIN and TEST to split.",
    )


def main() -> None:
    (args,) = HfArgumentParser(DemoArguments).parse_args_into_dataclasses()
    times, folder = [time.time()], Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    data = args.data_dir or str(write_corpus(folder / "corpus", args.clips_per_class, args.seed))
    times.append(time.time())
    train_where, test_where, remark = choose_rows(args, data)
    train = ["--train_dir", data, *(["--where", *train_where] if train_where else [])]
    common = ["--seed", args.seed, "--report_to", "none", "--save_strategy", "no", "--logging_steps", 20]

    base, tuned = args.model_name_or_path, folder / "uamix-mae"
    print(f"\n1/2 Tuning {Path(base).name} with uaMix on unlabelled clips", flush=True)
    # Small batches, since with so few updates their number counts, and half of each view's tokens, in half the time.
    run("tune.py", *train, "--model_name_or_path", base, "--output_dir", tuned, "--recipe", "plastic",
        "--head_steps", args.head_steps, "--max_steps", args.tune_steps, "--per_device_train_batch_size", 32,
        "--token_drop", 0.5, *common)  # fmt: skip
    times.append(time.time())
    # The strong encoder comes tuned: tuning it takes longer than the demo may, and shows less (docs/experiments.md).
    print(f"\n2/2 Few-shot accuracy before and after, and of {STRONG.name}, on clips that none has seen", flush=True)
    test = ["--data_dir", data, "--label_column", args.label_column, *(["--where", *test_where] if test_where else [])]
    group = ["--group_column", args.group_column] if args.group_column else []
    run("few_shot.py", "--model_name_or_path", base, tuned, STRONG, "--model_labels", "pretrained", "uaMix-tuned",
        STRONG.name, *test, *group, "--episodes", args.episodes, "--seed", args.seed, "--output_dir", folder,
        launcher=False)  # fmt: skip
    if remark:
        print(remark)
    settings = json.loads((tuned / "config.json").read_text())
    print(f"Plot of the embeddings: {folder / 'embeddings.png'}")
    print(f"Tuned encoder ({settings['num_hidden_layers']} layers, hidden size {settings['hidden_size']}): {tuned}")
    clips, tuning, check = (f"{end - start:.0f} s" for start, end in pairwise([*times, time.time()]))
    print(f"Time: clips {clips}, tuning {tuning}, check {check}")


if __name__ == "__main__":
    main()
