"""Two real processes draw different random numbers in every step of every kind of training, and the same on resuming;
what they must agree on, they do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from processes import run_processes
from toy_sounds import CONFIG, EXTRACTOR, log_mels, tones
from transformers import Trainer, set_seed

from uamix_hf import AudioMAEForPreTraining, AudioMAEModel
from uamix_hf.fine_tuning import (
    FineTuningArguments,
    FineTuningTrainer,
    FixMatchArguments,
    FixMatchTrainer,
    make_classifier,
)
from uamix_hf.fine_tuning import pseudo_labels as pseudo
from uamix_hf.fine_tuning.labels import with_labels
from uamix_hf.pretraining import PretrainingArguments, PretrainingTrainer
from uamix_hf.training import augmentations as views
from uamix_hf.tuning import StageTrainer, UaMixConfig, UaMixForContrastiveTuning, UaMixTrainingArguments, mixing

pytestmark = pytest.mark.slow
WORLD, STEPS, SAVED = 2, 4, 2
HEADS = {"projector_hidden_size": 24, "projection_size": 16, "predictor_hidden_size": 32, "queue_size": 12}
KINDS = ("pretrain", "fine-tune", "fixmatch", "head", "tune", "pseudo-labels")


def make_trainer(kind: str, folder: Path) -> Trainer:
    waves, labels = tones(20)
    clips = log_mels(waves)
    labelled = with_labels(clips, labels.astype(np.int64))
    fixed: dict[str, Any] = {
        "output_dir": str(folder / kind), "use_cpu": True, "disable_tqdm": True, "report_to": "none",
        "per_device_train_batch_size": 4, "max_steps": STEPS, "save_strategy": "steps", "save_steps": SAVED,
        "save_total_limit": 2,
    }  # fmt: skip
    set_seed(0)
    if kind == "pretrain":
        return PretrainingTrainer(AudioMAEForPreTraining(CONFIG), PretrainingArguments(**fixed), clips, EXTRACTOR)
    encoder = AudioMAEModel(CONFIG)
    if kind in ("fine-tune", "fixmatch"):
        args = FineTuningArguments(**fixed, eval_strategy="no", load_best_model_at_end=False)
        model = make_classifier(encoder, 3, problem_type="single_label_classification", **args.model_settings(encoder))
        if kind == "fine-tune":
            return FineTuningTrainer(model, args, labelled, EXTRACTOR)
        return FixMatchTrainer(model, args, labelled, EXTRACTOR, clips, FixMatchArguments())
    args = UaMixTrainingArguments(**fixed, head_steps=STEPS, recipe="plastic")
    if kind == "pseudo-labels":
        model = make_classifier(encoder, 3, problem_type="single_label_classification")
        return pseudo.PseudoLabelTrainer(model, args, labelled, EXTRACTOR, UaMixConfig(token_drop=0.5), [])
    model = UaMixForContrastiveTuning.from_encoder(encoder, token_drop=0.5, **HEADS)
    return StageTrainer(model, args, clips, EXTRACTOR, kind)


def recorded(found: dict[str, list], name: str, original: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        found[name].append(original(*args, **kwargs))
        return found[name][-1]

    return call


def run(kind: str, folder: Path, resume: str | None = None) -> dict[str, list]:
    """Of each step: the next numbers of the random state as it begins; and what views and mixtures are made of."""
    trainer = make_trainer(kind, folder)
    found: dict[str, list] = {name: [] for name in ("state", "sizes", "partners", "lambdas")}
    step = trainer.training_step

    def training_step(*args: Any, **kwargs: Any) -> torch.Tensor:
        generator = torch.Generator()
        generator.set_state(torch.get_rng_state())
        found["state"].append(torch.rand(8, generator=generator))
        return step(*args, **kwargs)

    trainer.training_step = training_step
    with (
        mock.patch.object(views, "broadcast_from_first", recorded(found, "sizes", views.broadcast_from_first)),
        mock.patch.object(mixing, "draw_partners", recorded(found, "partners", mixing.draw_partners)),
        mock.patch.object(mixing, "draw_lambda", recorded(found, "lambdas", mixing.draw_lambda)),
    ):
        trainer.train(resume)
    return found | {"weights": list(trainer.model.state_dict().values())}


def work(rank: int, folder: str) -> dict:
    found = {}
    for kind in KINDS:
        place = Path(folder) / kind if kind != "head" else Path(folder) / "head" / "head"
        checkpoint = str(place / f"checkpoint-{SAVED}")
        found[kind] = {"whole": run(kind, Path(folder)), "resumed": run(kind, Path(folder), checkpoint)}
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return run_processes(work, tmp_path_factory.mktemp("ranks"), WORLD)


def equal(one: list, two: list) -> list[bool]:
    return [bool(torch.equal(torch.as_tensor(a), torch.as_tensor(b))) for a, b in zip(one, two, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_process_draws_its_own_numbers_in_every_step(ranks, kind) -> None:
    one, two = (found[kind]["whole"] for found in ranks)
    assert equal(one["state"], two["state"]) == [False] * STEPS
    assert all(equal(one["weights"], two["weights"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_draws_the_same_on_each_process(ranks, kind) -> None:
    for found in ranks:
        whole, resumed = found[kind]["whole"], found[kind]["resumed"]
        assert len(resumed["state"]) == STEPS - SAVED
        for name in ("state", "sizes", "partners", "lambdas"):
            assert len(whole[name]) in (0, STEPS) and all(equal(whole[name][-len(resumed[name]) :], resumed[name]))
        assert all(equal(whole["weights"], resumed["weights"]))


def test_views_are_equally_long_everywhere_but_partners_and_mixtures_are_each_processs_own(ranks) -> None:
    one, two = (found["tune"]["whole"] for found in ranks)
    assert len(one["sizes"]) == len(one["partners"]) == len(one["lambdas"]) == STEPS
    assert one["sizes"] == two["sizes"] and len(set(one["sizes"])) == STEPS
    assert equal(one["lambdas"], two["lambdas"]) == [False] * STEPS
    assert not all(equal(one["partners"], two["partners"]))  # of four clips there are six cycles
