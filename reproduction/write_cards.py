"""Fills model_cards/template.md for both checkpoints from what examples/few_shot.py measured.

python reproduction/write_cards.py RESULTS OUTPUT

RESULTS holds a folder for each set of recordings with its results.json; OUTPUT holds the checkpoints' folders.
"""

import json
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoModel

import uamix_hf  # noqa: F401  (makes the Auto classes know Audio-MAE)

HERE = Path(__file__).parent
TEMPLATE = HERE.parent / "model_cards" / "template.md"
SETS = {
    "esc10": "ESC-10, fold 5",
    "fsdd": "Free Spoken Digits, speaker theo",
    "speech_commands_sub": "Speech Commands subset, half of the test speakers",
    "urbansound8k_sub": "UrbanSound8K subset, folds 1-2 (no training rows)",
}
KINDS = {("few_shot", 1): "1-shot", ("few_shot", 5): "5-shot", ("knn", None): "kNN", ("linear", None): "linear probe"}


def entries(results: dict[str, Any], model: str) -> dict[str, dict[str, Any]]:
    """Scores of a model by kind."""
    (found,) = [one["scores"] for one in results["models"] if one["name"] == model]
    kinds = {(one["protocol"], one["k"]): one for one in found if one["classifier"] in (None, "nearest_centroid")}
    return {name: kinds[kind] for kind, name in KINDS.items()}


def shown(entry: dict[str, Any]) -> str:
    interval = entry["interval"] if entry["trials"] >= 30 else None  # of two halves, it would span everything
    return f"{100 * entry['mean']:.1f}" + ("" if interval is None else f" ± {100 * interval:.1f}")


def table(results: dict[str, dict[str, Any]], models: list[str]) -> str:
    lines = [f"| data | encoder | {' | '.join(KINDS.values())} |", "|" + "---|" * (2 + len(KINDS))]
    for name, title in SETS.items():
        for model in models:
            cells = [shown(entry) for entry in entries(results[name], model).values()]
            lines.append(f"| {title} | {model} | {' | '.join(cells)} |")
        if len(models) > 1:
            pairs = {
                (one["protocol"], one["k"]): "{:+.1f} [{:+.1f}, {:+.1f}]".format(
                    *(100 * one[part] for part in ("difference", "low", "high"))
                )
                for one in results[name]["comparisons"]
                if one["second"] == models[-1] and one["classifier"] in (None, "nearest_centroid")
            }
            lines.append(f"| | **difference** | {' | '.join(pairs[kind] for kind in KINDS)} |")
    return "\n".join(lines)


def average(results: dict[str, dict[str, Any]], model: str, kind: str) -> float:
    return 100 * sum(entries(results[name], model)[kind]["mean"] for name in SETS) / len(SETS)


def write(
    model: str, models: list[str], results: dict[str, dict[str, Any]], words: dict[str, str], target: Path
) -> None:
    loaded = AutoModel.from_pretrained(target)
    first = next(iter(results.values()))
    scores = [
        EvalResult(
            task_type="audio-classification", task_name=f"Few-shot classification (5-way, {kind}, nearest centroid)",
            dataset_type=name, dataset_name=title, metric_type="accuracy", metric_name=f"accuracy, 5-way {kind}",
            metric_value=round(100 * entries(results[name], model)[kind]["mean"], 2),
        )
        for name, title in SETS.items()
        for kind in ("1-shot", "5-shot")
    ]  # fmt: skip
    data = ModelCardData(
        model_name=model, license="cc-by-sa-4.0", library_name="transformers", pipeline_tag="feature-extraction",
        base_model=words.get("base_model"), eval_results=scores,
        tags=["audio", "audio-mae", "masked-autoencoder", "few-shot"] + ["uamix"] * ("base_model" in words),
    )  # fmt: skip
    card = ModelCard.from_template(
        data, str(TEMPLATE), name=model, summary=words["summary"], training=words["training"],
        remarks=words["remarks"], results=table(results, models), width=loaded.config.hidden_size,
        embedding=loaded.config.embedding_size,
        blocks=loaded.config.num_hidden_layers, episodes=first["arguments"]["episodes"],
        episode_seed=first["arguments"]["seed"],
        parameters=f"{sum(value.numel() for value in loaded.parameters()) / 1e6:.1f}",
    )  # fmt: skip
    card.save(target / "README.md")


def main() -> None:
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    results = {name: json.loads((folder / name / "results.json").read_text()) for name in SETS}
    words = json.loads((HERE / "words.json").read_text())
    base, tuned = "audio-mae-tiny", "uamix-mae-tiny"
    write(base, [base], results, words[base], output / base)
    write(tuned, [base, tuned], results, words[tuned], output / tuned)


if __name__ == "__main__":
    main()
