"""What a user runs with an encoder, in one process: python every_encoder.py ENCODER RECORDINGS OUTPUT."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np

from uamix_hf import AudioEmbedder
from uamix_hf.__main__ import main

EXAMPLES = Path(__file__).parents[2] / "examples"
HEADS = {"projector_hidden_size": 16, "projection_size": 8, "predictor_hidden_size": 16, "queue_size": 16, "topk": 1}
STEPS = {"per_device_train_batch_size": 4, "report_to": "none", "save_strategy": "no", "disable_tqdm": "true"}


def script(name: str, **flags: object) -> None:
    sys.argv = [name, "--use_cpu"] if name in ("tune.py", "finetune.py") else [name]
    for flag, value in flags.items():
        sys.argv += [f"--{flag}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def run(encoder: str, recordings: str, output: Path) -> None:
    tuned, exported, vectors = (output / name for name in ("tuned", "exported", "vectors.npz"))
    script(
        "tune.py", model_name_or_path=encoder, train_dir=recordings, output_dir=tuned, max_steps=2, head_steps=1,
        recipe="plastic", warmup_steps=0, **STEPS, **HEADS,
    )  # fmt: skip
    script("embed.py", model_name_or_path=tuned, data_dir=recordings, output_file=vectors)
    assert main(["export", str(tuned), str(exported)]) == 0
    script(
        "few_shot.py", model_name_or_path=[encoder, tuned, exported], data_dir=recordings, protocol=["few_shot", "knn"],
        n_way=3, k_shot=1, queries=2, episodes=5, output_dir=output / "results",
    )  # fmt: skip
    script(
        "finetune.py", model_name_or_path=tuned, train_dir=recordings, label_column="label", eval_fraction=0.4,
        output_dir=output / "classifier", max_steps=2, **STEPS,
    )  # fmt: skip

    found = np.load(vectors)["vectors"]
    files = [Path(recordings) / name for name in np.load(vectors)["file_name"]]
    alone = AudioEmbedder.from_pretrained(str(tuned), device="cpu").encode(files, batch_size=1, progress_bar=False)
    half = AudioEmbedder.from_pretrained(str(exported), device="cpu").encode(files, progress_bar=False)
    scale = np.abs(alone).max()
    results = json.loads((output / "results" / "results.json").read_text())
    outcome = {
        "size": found.shape[1],
        "batch": float(np.abs(found - alone).max() / scale),
        "half": float(np.abs(half - alone).max() / scale),
        "spread": float(found.std(axis=0).mean()),
        "models": [model["name"] for model in results["models"]],
        "classifier": json.loads((output / "classifier" / "config.json").read_text())["architectures"],
    }
    (output / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
