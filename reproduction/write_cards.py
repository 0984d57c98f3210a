"""Fills model_cards/template.md for checkpoints from what examples/few_shot.py measured.

python reproduction/write_cards.py RESULTS OUTPUT NAME...

RESULTS holds a folder for each set of recordings with its results.json; OUTPUT holds the checkpoints' folders, of which
NAME... are described. Their texts are in words.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from uamix_hf.embedding import load_encoder
from uamix_hf.embedding.kinds import make_adapter

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


def write(model: str, results: dict[str, dict[str, Any]], words: dict[str, Any], data: list[str], target: Path) -> None:
    adapter = make_adapter(load_encoder(target))
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
    card_data = ModelCardData(
        model_name=model, license=words["license"], library_name="transformers", pipeline_tag="feature-extraction",
        base_model=words.get("base_model"), eval_results=scores, tags=["audio", *words["tags"], "few-shot"],
    )  # fmt: skip
    card = ModelCard.from_template(
        card_data, str(TEMPLATE), name=model, results=table(results, words["compared"]), data="\n".join(data),
        **{part: words.get(part) for part in ("summary", "training", "remarks", "licence", "limits", "notice")},
        has_code=adapter.base._auto_class is not None, width=adapter.base.config.hidden_size,
        embedding=adapter.embedding_size, blocks=len(adapter.layers),
        episodes=first["arguments"]["episodes"], episode_seed=first["arguments"]["seed"],
        parameters=f"{sum(value.numel() for value in adapter.base.parameters()) / 1e6:.1f}",
    )  # fmt: skip
    card.save(target / "README.md")


def main() -> None:
    folder, output, *models = sys.argv[1:]
    results = {name: json.loads((Path(folder) / name / "results.json").read_text()) for name in SETS}
    texts = json.loads((HERE / "words.json").read_text(encoding="utf-8"))
    for model in models:
        words = texts["models"][model]
        write(model, results, words, [texts["data"][name] for name in words["data"]], Path(output) / model)


if __name__ == "__main__":
    main()
