"""Cards say where weights come from and under which licence; only what from_pretrained reads is published."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from all_encoders import short_encoder
from huggingface_hub import ModelCard
from transformers import EvalPrediction

from uamix_hf import (
    AudioMAEConfig,
    AudioMAEFeatureExtractor,
    AudioMAEForAudioClassification,
    AudioMAEForPreTraining,
    AudioMAEModel,
    __version__,
)
from uamix_hf.embedding import save_encoder
from uamix_hf.fine_tuning import make_classifier
from uamix_hf.fine_tuning.metrics import make_compute_metrics
from uamix_hf.hub.cards import base_licence, fine_tuned_card, placed_at, tuned_card
from uamix_hf.hub.push import published_files
from uamix_hf.models.conversion import converted_card


def front_matter(text: str) -> dict:
    """The YAML block, read without huggingface_hub."""
    opening, block, _ = text.split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(block)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A converted base model's folder, as far as its card."""
    folder = tmp_path / "audio-mae"
    folder.mkdir()
    converted_card("audiomae", "pretrained.pth", "AudioMAEForPreTraining").save(folder / "README.md")
    return folder


def tuned(base_model: str, **more) -> ModelCard:
    settings, results = {"temperature": 0.07, "queue_size": 2048}, {"knn_accuracy": "0.81"}
    return tuned_card(base_model, "birds", 1234, settings, results, **more)


def fine_tuned(base_model: str, problem_type: str = "single_label_classification", **more) -> ModelCard:
    fixed = {
        "label_names": ["wren", "robin"], "settings": {"layer_decay": 0.75, "where": ["fold=1"]},
        "results": {"eval_accuracy": 0.9, "test_loss": 0.5, "test_accuracy": 0.8, "test_accuracy_wren": 1.0},
    }  # fmt: skip
    return fine_tuned_card(base_model, "birds", 1234, problem_type, **fixed | more)


@pytest.mark.parametrize("source", ["somebody/vit_audiomae", "pretrained.pth"])
def test_converted_card_states_the_contradictory_licence(tmp_path: Path, monkeypatch, source: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pretrained.pth").touch()
    card = converted_card("audiomae", source, "AudioMAEModel")
    card.save(tmp_path / "README.md")
    loaded = ModelCard.load(tmp_path / "README.md")
    assert loaded.data.license == "cc-by-nc-4.0"
    assert loaded.data.library_name == "transformers" and loaded.data.pipeline_tag == "feature-extraction"
    assert loaded.data.base_model == (source if "/" in source else None)  # a file is no model of the Hub
    assert front_matter(card.content) == loaded.data.to_dict()
    for part in ("contradictory", "CC BY-NC 4.0", "CC BY 4.0", "AudioMAEModel", Path(source).name, "2207.06405"):
        assert part in loaded.text


def test_tuned_card_names_base_data_licence_and_what_was_run(base: Path, tmp_path: Path) -> None:
    card = tuned(str(base), repo_id="me/birds-encoder", dataset="me/birds")
    card.save(tmp_path / "README.md")
    loaded = ModelCard.load(tmp_path / "README.md")
    assert loaded.data.license == "cc-by-nc-4.0"
    assert loaded.data.library_name == "transformers" and loaded.data.pipeline_tag == "feature-extraction"
    assert loaded.data.datasets == ["me/birds"]
    assert front_matter(card.content) == loaded.data.to_dict()
    for part in (
        "contradictory", "audio-mae, tuned with uaMix", "birds, 1234 clips", 'from_pretrained("me/birds-encoder"',
        "| temperature | 0.07 |\n| queue_size | 2048 |\n", "| knn_accuracy | 0.81 |\n", f"uamix_hf {__version__}, ",
    ):  # fmt: skip
        assert part in loaded.text
    assert str(base.parent) not in loaded.content  # nobody else has that folder


@pytest.mark.parametrize("objective, method", [("uamix", "with uaMix"), ("pseudo_labels", "on pseudo-labels")])
def test_card_says_what_was_learnt_and_from_which_start(monkeypatch, objective: str, method: str) -> None:
    monkeypatch.setattr("uamix_hf.hub.cards.base_licence", lambda name: "mit")
    start, fresh = (tuned("you/base", objective=objective, random_weights=random) for random in (False, True))
    assert f"# you/base, tuned {method}\n" in start.text and "random weights" not in start.text
    assert f"# you/base, trained from random weights {method}\n" in fresh.text
    assert "- Base model: you/base, of which the configuration" in fresh.text
    assert start.data.base_model == "you/base" and fresh.data.base_model is None  # nothing of it is in the weights
    for card in (start, fresh):
        assert ("contrastive" in card.content) == (objective == "uamix")
        assert ("cluster " in card.text and "2303.05668" in card.text) == (objective == "pseudo_labels")


def test_fine_tuned_card_names_base_data_licence_classes_and_what_was_run(base: Path, tmp_path: Path) -> None:
    card = fine_tuned(str(base), repo_id="me/birds-classifier", dataset="me/birds")
    card.save(tmp_path / "README.md")
    loaded = ModelCard.load(tmp_path / "README.md")
    assert loaded.data.license == "cc-by-nc-4.0"
    assert loaded.data.library_name == "transformers" and loaded.data.pipeline_tag == "audio-classification"
    assert loaded.data.datasets == ["me/birds"] and "audio-classification" in loaded.data.tags
    assert front_matter(card.content) == loaded.data.to_dict()
    for part in (
        "contradictory", "# audio-mae, fine-tuned for audio classification\n",
        "birds, 1234 clips, used with their labels",
        'pipeline("audio-classification", model="me/birds-classifier"', "## Classes\n\nwren, robin\n",
        "| layer_decay | 0.75 |\n| where | ['fold=1'] |\n", "| eval_accuracy | 0.9 |\n| test_loss | 0.5 |\n",
        "| test_accuracy_wren | 1.0 |\n", f"uamix_hf {__version__}, ",
    ):  # fmt: skip
        assert part in loaded.text
    assert str(base.parent) not in loaded.content and "{" not in loaded.text


CARDS = {
    AudioMAEForPreTraining: lambda **place: converted_card("audiomae", "pretrained.pth", "AudioMAEForPreTraining"),
    AudioMAEModel: lambda **place: tuned("you/base", **place),
    AudioMAEForAudioClassification: lambda **place: fine_tuned("you/base", **place),
}
SHIPPED = sorted((Path(__file__).parents[2] / "model_cards").glob("*/README.md"))


def python_of(card: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    return block


@pytest.mark.parametrize("kind", CARDS, ids=lambda kind: kind.__name__)
def test_lines_of_a_card_run_in_its_folder_wherever_that_is(
    tiny_config: AudioMAEConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    monkeypatch.setattr("uamix_hf.hub.cards.base_licence", lambda name: None)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    kind(tiny_config).save_pretrained(tmp_path / "run")
    AudioMAEFeatureExtractor(max_length=tiny_config.max_length).save_pretrained(tmp_path / "run")
    CARDS[kind](repo_id=None).save(tmp_path / "run" / "README.md")
    folder = (tmp_path / "run").rename(tmp_path / "elsewhere")
    monkeypatch.chdir(folder)
    code = python_of((folder / "README.md").read_text()).replace('"recording.wav"', "waveform")
    names = {"waveform": np.random.default_rng(0).uniform(-0.5, 0.5, 8000).astype(np.float32)}
    exec(code, names)
    assert "classifier" in names or names["embedding"].isfinite().all()
    assert str(tmp_path) not in code and "repository" not in code


@pytest.mark.parametrize("classifies", [False, True])
def test_lines_of_the_cards_of_other_encoders_run(tmp_path: Path, monkeypatch, classifies: bool) -> None:
    monkeypatch.setattr("uamix_hf.hub.cards.base_licence", lambda name: None)
    encoder, extractor = short_encoder("whisper")
    if classifies:
        make_classifier(encoder, 2, extractor).save_pretrained(tmp_path)
        extractor.save_pretrained(tmp_path)
    else:
        save_encoder(encoder, tmp_path, extractor)
    other: dict[str, Any] = {"encoder_type": "whisper", "has_code": False}
    card = fine_tuned("you/base", **other) if classifies else tuned("you/base", **other)
    monkeypatch.chdir(tmp_path)
    names = {"waveform": np.random.default_rng(0).uniform(-0.5, 0.5, 8000).astype(np.float32)}
    exec(python_of(str(card)).replace('"recording.wav"', "waveform"), names)
    assert "classifier" in names or np.isfinite(names["embedding"]).all()
    assert "whisper" in card.data.tags and "audio-mae" not in card.data.tags
    assert "trust_remote_code" not in str(card) and "masked" not in str(card)


@pytest.mark.parametrize("card", SHIPPED, ids=lambda card: card.parent.name)
def test_lines_of_a_shipped_card_run_in_its_folder(card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(SHIPPED) == 4
    soundfile.write(tmp_path / "clip.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 16_000)
    monkeypatch.chdir(card.parent)
    names: dict[str, Any] = {}
    exec(python_of(card.read_text()).replace("clip.wav", str(tmp_path / "clip.wav")), names)
    assert np.isfinite(np.asarray(names["embedding"])).all()


def test_lines_of_a_card_load_from_where_it_is_pushed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uamix_hf.hub.cards.base_licence", lambda name: None)
    texts = [str(card(repo_id=place)) for card in CARDS.values() for place in (None, "name", "me/other")]
    for text in [*texts, *(card.read_text() for card in SHIPPED)]:
        placed = placed_at(text, "you/name")
        loads = re.findall(r'(?:from_pretrained\(|model=)"(.*?)"', placed)
        assert loads and set(loads) == {"you/name"} and "folder of this card" not in placed
        rest = [part.replace(python_of(part), "") for part in (text, placed)]
        assert rest[0] == rest[1]
    assert all('"name"' not in text for text in texts)  # without its owner, it is no place


def test_the_hub_is_told_the_figures_of_test_and_validation_rows() -> None:
    """Read as YAML: those of single classes and losses are no metrics of the Hub's."""
    (index,) = front_matter(fine_tuned("you/base", repo_id="me/birds-classifier").content)["model-index"]
    assert index["name"] == "birds-classifier"
    found = [
        (entry["task"]["type"], entry["dataset"]["name"], entry["dataset"]["split"], metric["type"], metric["value"])
        for entry in index["results"]
        for metric in entry["metrics"]
    ]
    expected = [("test", 0.8), ("validation", 0.9)]
    assert found == [("audio-classification", "birds", split, "accuracy", value) for split, value in expected]
    without = front_matter(fine_tuned("you/base", results={}).content)
    assert "model-index" not in without


@pytest.mark.parametrize(
    ("problem_type", "figure", "kind", "says"),
    [
        ("multi_label_classification", "mean_average_precision", "mAP", "which may have several classes"),
        ("regression", "mse", "mse", "# you/base, fine-tuned to predict wren\n"),
    ],
)
def test_fine_tuned_card_says_what_is_predicted(problem_type: str, figure: str, kind: str, says: str) -> None:
    card = fine_tuned("you/base", problem_type, results={f"eval_{figure}": 0.25, f"eval_{figure}_wren": 1.0})
    assert says in card.text and "It predicts one class for each clip." not in card.text
    (entry,) = front_matter(card.content)["model-index"][0]["results"]
    assert [(metric["type"], metric["value"]) for metric in entry["metrics"]] == [(kind, 0.25)]


def test_every_figure_that_the_trainer_means_goes_to_the_hub() -> None:
    """Of each kind of problem, all that is not of a single class."""
    labels = {
        "single_label_classification": np.arange(2),
        "multi_label_classification": np.eye(2),
        "regression": [0, 1],
    }
    for problem_type, references in labels.items():
        logits = np.eye(2)[:, :1] if problem_type == "regression" else np.eye(2)
        compute = make_compute_metrics(problem_type, ["wren", "robin"])
        results = compute(EvalPrediction(logits, np.array(references)))
        card = fine_tuned("you/base", problem_type, results={f"test_{name}": value for name, value in results.items()})
        (entry,) = front_matter(card.content)["model-index"][0]["results"]
        told = [metric["value"] for metric in entry["metrics"]]
        assert told == [value for name, value in results.items() if not name.endswith(("wren", "robin"))]


def test_fine_tuned_card_of_random_weights_names_no_base_to_the_hub() -> None:
    card = fine_tuned("you/base", random_weights=True)
    assert card.data.base_model is None and fine_tuned("you/base").data.base_model == "you/base"
    assert "# you/base, trained from random weights for audio classification\n" in card.text


def test_names_of_classes_do_not_break_the_tables() -> None:
    text = fine_tuned("you/base", results={"eval_accuracy_wren|robin\nor both": 0.5}).text
    assert "| eval_accuracy_wren\\|robin or both | 0.5 |\n" in text


def test_tuned_card_of_a_base_on_the_hub(monkeypatch) -> None:
    card = ModelCard("---\nlicense: cc-by-sa-4.0\n---\n# Base\n")
    monkeypatch.setattr(ModelCard, "load", classmethod(lambda cls, name, **options: {"you/base": card}[name]))
    loaded = tuned("you/base")
    assert loaded.data.base_model == "you/base"
    assert loaded.data.license == "cc-by-sa-4.0" and "contradictory" not in loaded.text
    assert loaded.data.datasets is None


def test_unknown_licence_is_said_not_guessed(tmp_path: Path) -> None:
    card = tuned(str(tmp_path))
    assert card.data.license is None and "license" not in front_matter(card.content)
    assert "unknown: the base model's card states none" in card.text


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: mit\ntags: [x]\n---\n# A\n\n---\nlicense: other\n---\n", "mit"),
        ("---\nname: a---b\nlicense: mit\n---\n", "mit"),
        ("---\r\nlicense: mit\r\n---\r\n# A\r\n", "mit"),
        ("# A card without data\n", None),
        ("---\ntags: [x]\n---\n", None),
        ("---\nlicense: [\n---\n", None),
        ("---\n- a\n---\n", None),
        ("", None),
        (None, None),
    ],
)
def test_licence_is_read_from_the_bases_card(tmp_path: Path, readme: str | None, licence: str | None) -> None:
    if readme is not None:
        (tmp_path / "README.md").write_text(readme, newline="")
    assert base_licence(str(tmp_path)) == licence


def test_licence_of_what_cannot_be_reached_is_none(tmp_path: Path, monkeypatch) -> None:
    assert base_licence("user/no-such-model") is None
    assert base_licence(str(tmp_path / "gone")) is None
    # A folder without a card is not asked for on the Hub, where a stranger may own its name.
    monkeypatch.chdir(tmp_path)
    Path("user/model").mkdir(parents=True)
    card = ModelCard("---\nlicense: mit\n---\n")
    original = ModelCard.load
    monkeypatch.setattr(
        ModelCard, "load", classmethod(lambda cls, name, **options: card if name == "user/model" else original(name))
    )
    assert base_licence("user/model") is None


def test_published_files_are_what_from_pretrained_reads(tmp_path: Path) -> None:
    published = ["README.md", "config.json", "model-00001-of-00002.safetensors", "modeling_audio_mae.py"]
    private = [
        "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin", "scaler.pt",
        ".env", "checkpoint-5/config.json", "checkpoint-5/model.safetensors", "head/checkpoint-5/optimizer.pt",
        "runs/events.out.tfevents", ".git/config.json", "clips/a.wav", "model.safetensors.tmp", "weights.pkl",
    ]  # fmt: skip
    for name in [*published, *private]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert published_files(tmp_path) == published
