"""Tunes one encoder in many ways and measures each on four sets of recordings: what reproduction/log.md is made of.

python reproduction/recipe.py --model_name_or_path model_cards/audio-mae-tiny --data ../shared/data --rows validation \
    --output_dir recipe --variants t-cutmix no-mixing --seeds 0 1 2

Variants are lists of flags for examples/tune.py, or for a baseline's script, in recipe.json or another file of
--settings. `of` another variant is its encoder without the whitening, or with `whiten` whitened anew; with `projector`,
the embeddings pass through the projector that its checkpoint holds, and are whitened after it. A variant's `training`
names a list of folders, `folder` or `folder:condition`, in `training` of that file, on which it is tuned and its
whitening fitted. A run that is already in the output folder is not repeated.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from speakers import speakers
from torch import nn
from transformers import HfArgumentParser, set_seed

from uamix_hf import fit_whitening
from uamix_hf.data import DataArguments, cached_features, column_as_text, load_recordings, prepare, read_groups
from uamix_hf.embedding import load_encoder, load_feature_extractor, save_encoder
from uamix_hf.embedding.kinds import adapter_class
from uamix_hf.embedding.whitening import whitening_of
from uamix_hf.evaluation import Scores, cached_embeddings, few_shot_accuracy, knn_probe, linear_probe, make_splits
from uamix_hf.training.models import with_random_weights
from uamix_hf.tuning import UaMixConfig
from uamix_hf.tuning.heads import make_projector

EXAMPLES = Path(__file__).parents[1] / "examples"
TRAINING_ROWS = ("esc10:fold=1,2,3", "fsdd:speaker=george,jackson", "speech_commands_sub:split=train")
GROUPS = {"esc10": "src_file", "fsdd": None, "speech_commands_sub": "speaker", "urbansound8k_sub": "fs_id"}
SHOTS = (1, 5)
PROJECTOR = "projector.safetensors"
N_SPLITS = 2  # parts that the linear probe is tested on in turn; some classes have two sources only


@dataclass
class RecipeArguments:
    model_name_or_path: str = field(metadata={"help": "Encoder to tune."})
    output_dir: str = field(metadata={"help": "Where the tuned encoders and their scores go."})
    data: str = field(default="../shared/data", metadata={"help": "Folder that holds the four sets."})
    settings: str = field(
        default=str(Path(__file__).with_suffix(".json")), metadata={"help": "JSON file of the variants."}
    )
    variants: list[str] = field(default_factory=list, metadata={"help": "Which ones; all if unset."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Of the training."})
    rows: str = field(default="validation", metadata={"help": "Rows to measure on: validation or test."})
    episodes: int = field(default=600, metadata={"help": "Few-shot episodes for each set and number of shots."})

    def read_settings(self) -> dict[str, Any]:
        """The flags that all variants share, and the variants."""
        return json.loads(Path(self.settings).read_text(encoding="utf-8"))


def measured_rows(data: Path, rows: str) -> dict[str, list[str]]:
    """Conditions on the rows of each set."""
    half = speakers(str(data / "speech_commands_sub/metadata.csv"), rows)
    others = {
        "validation": {"esc10": "fold=4", "fsdd": "speaker=lucas", "urbansound8k_sub": "fold=3"},
        "test": {"esc10": "fold=5", "fsdd": "speaker=theo", "urbansound8k_sub": "fold=1,2"},
    }
    conditions = {name: [condition] for name, condition in others[rows].items()}
    return conditions | {"speech_commands_sub": ["split=test", "speaker=" + ",".join(half)]}


def command(args: RecipeArguments, entry: dict[str, Any], seed: int, folder: Path) -> list[str]:
    """Command line of examples/tune.py, or of a baseline's script."""
    settings, script = args.read_settings(), entry.get("script", "tune.py")
    words = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no", str(EXAMPLES / script)]
    words += ["--model_name_or_path", args.model_name_or_path, "--output_dir", str(folder), "--seed", str(seed)]
    data = training_data(args, entry)
    words += ["--train_dir", *data.train_dir]
    if data.where:
        words += ["--where", *data.where]
    words += ["--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "true"]
    words += settings["common"].split()
    if "layer" in entry:
        words += ["--embedding_layer", str(entry["layer"])]
    if "pooling" in entry:
        words += ["--pooling", entry["pooling"]]
    if script == "tune.py":
        words += settings["uamix"].split()
    return words + entry["flags"].split()


def training_data(args: RecipeArguments, entry: dict[str, Any]) -> DataArguments:
    """Folders and conditions of a variant's training rows."""
    rows = args.read_settings()["training"][entry["training"]] if "training" in entry else TRAINING_ROWS
    folders, conditions = zip(*(row.partition(":")[::2] for row in rows), strict=True)
    # A folder is known to conditions by its own name.
    where = [f"{Path(folder).name}:{one}" for folder, one in zip(folders, conditions, strict=True) if one]
    return DataArguments([str(Path(args.data) / folder) for folder in folders], where=where)


def training_clips(args: RecipeArguments, entry: dict[str, Any], extractor: Any) -> Dataset:
    """Features of a variant's training rows."""
    return prepare(training_data(args, entry), extractor).dataset


def make(args: RecipeArguments, variant: str, seed: int, folder: Path) -> None:
    """The encoder of a variant, in `folder`."""
    entry = args.read_settings()["variants"][variant]
    folder.mkdir(parents=True, exist_ok=True)
    if entry.get("untuned") or "of" in entry:
        source = args.model_name_or_path if entry.get("untuned") else folder.with_name(f"{entry['of']}-{seed}")
        extractor = load_feature_extractor(source)
        encoder = load_encoder(source, layer=entry.get("layer"), pooling=entry.get("pooling"))
        if "of" in entry:  # what training alone does, unless it is whitened anew
            adapter_class(encoder.config).set_whitening(encoder, None)
        if entry.get("random"):
            set_seed(seed)
            encoder = with_random_weights(encoder)
        if entry.get("whiten", "of" not in entry):
            fit_whitening(encoder, extractor, training_clips(args, entry, extractor))
        if entry.get("projector"):
            save_file(projector_weights(folder.with_name(f"{entry['of']}-{seed}")), folder / PROJECTOR)
        save_encoder(encoder, folder, extractor)
        return
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        subprocess.run(command(args, entry, seed, folder), check=True, stdout=log, stderr=subprocess.STDOUT)


def log_mel_means(dataset: Dataset) -> np.ndarray:
    """Mean over time of each mel bin (clips, 128): what is to be had without any encoder."""
    return np.stack([clip["features"].mean(dim=0).numpy() for clip in dataset])


def projector_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of the projector in the checkpoint that tuning has left in `folder`."""
    files = list(folder.glob("checkpoint-*/model.safetensors"))
    if len(files) != 1:
        raise FileNotFoundError(f"{folder} has {len(files)} checkpoints: tune it with --save_strategy steps, for one.")
    prefix = "heads.projector."
    return {name.removeprefix(prefix): value for name, value in load_file(files[0]).items() if name.startswith(prefix)}


def load_projector(file: Path) -> nn.Sequential:
    """The projector of these weights, for inference."""
    weights = load_file(file)
    (inner, width), out = weights["0.weight"].shape, len(weights["6.weight"])
    projector = make_projector(width, UaMixConfig(projector_hidden_size=inner, projection_size=out))
    projector.load_state_dict(weights)
    return projector.eval()


def projected(
    args: RecipeArguments, variant: str, model: str, embed: Callable[[Dataset], np.ndarray]
) -> Callable[[Dataset], np.ndarray]:
    """Embeddings after the projector, whitened on the training rows."""
    projector = load_projector(Path(model) / PROJECTOR)

    @torch.no_grad()
    def project(recordings: Dataset) -> np.ndarray:
        return projector(torch.from_numpy(embed(recordings))).numpy()

    data = training_data(args, args.read_settings()["variants"][variant])
    clips = project(load_recordings(data.train_dir, where=data.where))
    mean, matrix = whitening_of(clips, clips.shape[1])
    return lambda recordings: (project(recordings) - mean) @ matrix


def embedding(args: RecipeArguments, variant: str, model: str) -> Callable[[Dataset], np.ndarray]:
    """What turns recordings into vectors: the encoder in the folder `model`, or no encoder at all."""
    if variant != "log-mel":
        cache = Path(args.output_dir) / "embeddings"

        def embed(recordings: Dataset) -> np.ndarray:
            return cached_embeddings(model, recordings, cache, progress_bar=False)

        return projected(args, variant, model, embed) if (Path(model) / PROJECTOR).exists() else embed
    extractor = load_feature_extractor(args.model_name_or_path)
    clips = log_mel_means(training_clips(args, {}, extractor))
    mean, matrix = whitening_of(clips, clips.shape[1])
    return lambda recordings: (log_mel_means(cached_features(recordings, extractor).dataset) - mean) @ matrix


def measure(args: RecipeArguments, embed: Callable[[Dataset], np.ndarray]) -> dict[str, Scores]:
    """Scores by `set/protocol`."""
    scores = {}
    for name, where in measured_rows(Path(args.data), args.rows).items():
        recordings = load_recordings(str(Path(args.data) / name), where=where)
        labels = np.unique(column_as_text(recordings, "label"), return_inverse=True)[1]
        group = GROUPS[name]
        groups = read_groups(recordings, group)
        vectors = embed(recordings)
        for k in SHOTS:
            scores[f"{name}/{k}-shot"] = few_shot_accuracy(
                vectors, labels, groups, k_shot=k, episodes=args.episodes, seed=0
            )
        if args.rows == "validation":
            continue  # some of its classes have one source alone, which probes cannot both learn and be tested on
        scores[f"{name}/knn"], _ = knn_probe(vectors, labels, groups)
        scores[f"{name}/linear"], _ = linear_probe(vectors, labels, make_splits(labels, groups, None, N_SPLITS))
    return scores


def save(path: Path, scores: dict[str, Scores], **more: object) -> None:
    arrays = {
        f"{name}/{part}": getattr(score, part)
        for name, score in scores.items()
        for part in ("values", "classes", "trials")
    }
    np.savez_compressed(path, **arrays)
    means = {name: round(100 * score.mean, 2) for name, score in scores.items()}
    path.with_suffix(".json").write_text(json.dumps({**more, "means": means}, indent=1))
    for protocol in dict.fromkeys(name.partition("/")[2] for name in means):
        found = {name: value for name, value in means.items() if name.endswith(f"/{protocol}")}
        line = ", ".join(f"{name.partition('/')[0]} {value:.1f}" for name, value in found.items())
        print(f"{path.stem} {protocol}: {np.mean(list(found.values())):.1f} ({line})", flush=True)


def main() -> None:
    (args,) = HfArgumentParser(RecipeArguments).parse_args_into_dataclasses()
    folder = Path(args.output_dir)
    (folder / args.rows).mkdir(parents=True, exist_ok=True)
    untuned = folder / args.rows / "untuned.npz"
    if not untuned.exists():
        scores = measure(args, embedding(args, "untuned", args.model_name_or_path))
        save(untuned, scores, model=args.model_name_or_path)
    for seed in args.seeds:
        for variant in args.variants or args.read_settings()["variants"]:
            model, results = folder / f"{variant}-{seed}", folder / args.rows / f"{variant}-{seed}.npz"
            if results.exists():
                continue
            started = time.time()
            if variant != "log-mel" and not (model / "config.json").exists():
                make(args, variant, seed, model)
            scores = measure(args, embedding(args, variant, str(model)))
            save(results, scores, variant=variant, seed=seed, seconds=round(time.time() - started))


if __name__ == "__main__":
    main()
