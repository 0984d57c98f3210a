"""The classifier in transformers' own Trainer, as its run_audio_classification example uses any other model."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hub_server import HubServer
from toy_sounds import CONFIG, EXTRACTOR, tones
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from uamix_hf import AudioMAEForAudioClassification, AudioMAEModel
from uamix_hf.metrics.modules import load_metric

NAMES = ("low", "middle", "high")
LABELS: dict[str, Any] = {
    "num_labels": 3, "id2label": dict(enumerate(NAMES)), "label2id": {name: k for k, name in enumerate(NAMES)}
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained encoder's folder: what the example gets as --model_name_or_path."""
    folder = tmp_path_factory.mktemp("encoder")
    set_seed(0)
    AudioMAEModel(CONFIG).save_pretrained(folder)
    EXTRACTOR.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recordings() -> dict[str, Dataset]:
    plain = {"detuned": 0.02, "noise": (0.2, 0.2), "level": (0.1, 0.1)}
    parts = {"train": tones(30, **plain), "test": tones(30, seed=1, **plain)}
    return {name: Dataset.from_dict({"audio": waves, "label": labels}) for name, (waves, labels) in parts.items()}


@pytest.fixture
def train(encoder: Path, recordings: dict[str, Dataset], tmp_path: Path):
    """`train(collator=..., padding="max_length", **arguments)`: the Trainer after its training."""

    def train(collator=default_data_collator, padding="max_length", **arguments) -> Trainer:
        extractor = AutoFeatureExtractor.from_pretrained(encoder)
        config = AutoConfig.from_pretrained(encoder, **LABELS)
        set_seed(1)
        model = AutoModelForAudioClassification.from_pretrained(encoder, config=config)
        accuracy = load_metric("classification_accuracy")

        def transform(batch: dict[str, list]) -> dict[str, list]:
            waves = [np.asarray(wave, np.float32) for wave in batch["audio"]]
            inputs = extractor(waves, sampling_rate=16_000, padding=padding, return_attention_mask=padding is False)
            return {**inputs, "labels": batch["label"]}

        def compute_metrics(prediction) -> dict[str, float]:
            numbers = prediction.predictions.argmax(axis=1)
            return {"accuracy": accuracy.compute(predictions=numbers, references=prediction.label_ids)["accuracy"]}

        fixed = {
            "output_dir": str(tmp_path / "run"), "max_steps": 80, "learning_rate": 2e-3, "use_cpu": True, "seed": 1,
            "per_device_train_batch_size": 10, "remove_unused_columns": False, "disable_tqdm": True,
            "save_strategy": "no", "logging_steps": 10, "report_to": "none",
        }  # fmt: skip
        parts = {name: part.with_transform(transform) for name, part in recordings.items()}
        trainer = Trainer(
            model, TrainingArguments(**fixed | arguments), train_dataset=parts["train"], eval_dataset=parts["test"],
            data_collator=DataCollatorWithPadding(extractor) if collator is DataCollatorWithPadding else collator,
            processing_class=extractor, compute_metrics=compute_metrics,
        )  # fmt: skip
        trainer.train()
        return trainer

    return train


@pytest.mark.parametrize(
    ("collator", "padding"),
    [(default_data_collator, "max_length"), (None, "max_length"), (DataCollatorWithPadding, False), (None, False)],
    ids=["stacked", "default", "padded", "default, unequal lengths"],
)
def test_toy_sounds_are_learnt_with_transformers_collators(train, collator, padding) -> None:
    """None is the collator that the Trainer itself chooses. The clips are of 0.2 to 0.6 s."""
    trainer = train(collator, padding)
    batches = list(trainer.get_train_dataloader())
    shapes = {tuple(batch["input_values"].shape[1:]) for batch in batches}
    assert shapes == {(64, 32)} if padding else shapes <= {(48, 32), (64, 32)}  # the longest clip is of 58 frames
    if not padding:
        assert all(len(batch["attention_mask"].sum(dim=1).unique()) > 3 for batch in batches)
    assert trainer.evaluate()["eval_accuracy"] > 0.9
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]


def test_batches_of_unequal_clips_hide_their_padding(train) -> None:
    """Evaluated one by one, the loss is the same."""
    trainer = train(None, False, max_steps=2)
    together, alone = [], []
    for size, losses in ((8, together), (1, alone)):
        trainer.args.per_device_eval_batch_size = size
        losses.append(trainer.evaluate()["eval_loss"])
    assert together == pytest.approx(alone, abs=1e-5)


def test_what_is_saved_loads_with_its_labels_and_goes_on(train, recordings, tmp_path: Path) -> None:
    trainer = train()
    expected = trainer.predict(trainer.eval_dataset).predictions
    trainer.save_model(tmp_path / "saved")
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "saved").eval()
    assert isinstance(model, AudioMAEForAudioClassification)
    assert (model.config.id2label, model.config.label2id) == (LABELS["id2label"], LABELS["label2id"])
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "saved")
    waves = [np.asarray(wave, np.float32) for wave in recordings["test"]["audio"]]
    with torch.no_grad():
        inputs = extractor(waves, sampling_rate=16_000, padding="max_length", return_tensors="pt")
        torch.testing.assert_close(model(**inputs).logits, torch.from_numpy(expected), atol=1e-5, rtol=1e-5)
    fresh = AutoModelForAudioClassification.from_pretrained(
        tmp_path / "saved", num_labels=5, ignore_mismatched_sizes=True
    )
    assert fresh.classifier.out_features == 5
    assert torch.equal(fresh.audio_mae.layers[0].mlp.fc1.weight, model.audio_mae.layers[0].mlp.fc1.weight)


@pytest.mark.parametrize(
    "flags",
    [{"gradient_checkpointing": True}, {"bf16": True}, {"gradient_accumulation_steps": 2}, {"weight_decay": 0.1}],
    ids=lambda flags: next(iter(flags)),
)
def test_flags_of_the_trainer_run_and_learn(train, flags: dict) -> None:
    trainer = train(**flags)
    assert trainer.evaluate()["eval_accuracy"] > 0.8
    checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in trainer.model.modules())
    assert checkpointing == ("gradient_checkpointing" in flags)


def test_checkpointing_computes_the_same_and_accumulating_the_same_mean(train) -> None:
    """To rounding: each changes how a step is computed and not what."""
    plain, *others = [
        train(max_steps=3, lr_scheduler_type="constant", learning_rate=1e-3, **flags).model.state_dict()
        for flags in (
            {},
            {"gradient_checkpointing": True},
            {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 2},
        )
    ]
    for other in others:
        for name, value in plain.items():
            torch.testing.assert_close(other[name], value, atol=2e-4, rtol=0, msg=name)


def test_a_checkpoint_is_continued_as_if_never_stopped(train) -> None:
    whole = train(max_steps=8)
    train(max_steps=8, save_strategy="steps", save_steps=4, output_dir=whole.args.output_dir)
    again = Trainer(
        model_init=lambda: AutoModelForAudioClassification.from_pretrained(f"{whole.args.output_dir}/checkpoint-4"),
        args=whole.args, train_dataset=whole.train_dataset, data_collator=default_data_collator,
    )  # fmt: skip
    again.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-4")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


PUSH = """
import sys
import numpy as np
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Trainer, TrainingArguments
import uamix_hf

folder, output = sys.argv[1:]
model = AutoModelForAudioClassification.from_pretrained(folder)
extractor = AutoFeatureExtractor.from_pretrained(folder)
args = TrainingArguments(output, use_cpu=True, report_to="none", push_to_hub=True, hub_model_id="user/tones")
trainer = Trainer(model, args, processing_class=extractor)
trainer.push_to_hub(finetuned_from="user/encoder", tasks="audio-classification", dataset="tones", tags=["audio"])
"""
PULL = """
import sys
sys.modules["uamix_hf"] = None
import numpy as np
from transformers import pipeline

classify = pipeline("audio-classification", model="user/tones", trust_remote_code=True)
print(classify(np.load(sys.argv[1]))[0]["label"])
"""


@pytest.mark.slow
def test_the_trainer_pushes_what_a_pipeline_pulls_where_the_package_is_absent(train, tmp_path: Path) -> None:
    train().save_model(tmp_path / "saved")
    waves, labels = tones(3, seed=1)
    np.save(tmp_path / "wave.npy", waves[0])

    with HubServer() as hub:

        def run(code: str, home: str, *arguments: object) -> str:
            command = [sys.executable, "-c", code, *map(str, arguments)]
            process = subprocess.run(
                command, env=os.environ | hub.environment(tmp_path / home), cwd=tmp_path,
                capture_output=True, text=True, timeout=300,
            )  # fmt: skip
            assert process.returncode == 0, process.stderr
            return process.stdout

        run(PUSH, "author", tmp_path / "saved", tmp_path / "pushed")
        files = hub.files("user/tones")
        assert run(PULL, "user", tmp_path / "wave.npy").split()[-1] == NAMES[labels[0]]
    assert {"modeling_audio_mae.py", "preprocessor_config.json", "model.safetensors"} <= files.keys()
    assert b"base_model: user/encoder" in files["README.md"]
