"""Recipes: what they set, that given settings win, and that copies of the arguments follow recipe and batch."""

import copy
import dataclasses
import json
import math
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint
from transformers import HfArgumentParser
from transformers.trainer import safe_globals

from uamix_hf import UaMixTrainingArguments
from uamix_hf.tuning import StageTrainer, train_stages
from uamix_hf.tuning.recipes import DEFAULT_RECIPE, RECIPES, fill_in, recipe_changes
from uamix_hf.tuning.trainer import fit_batch

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "method.md"


def parse(folder: Path, *words: str) -> UaMixTrainingArguments:
    (args,) = HfArgumentParser(UaMixTrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", str(folder), "--use_cpu", *words]
    )
    return args


def test_plastic_has_the_settings_of_tuning_as_it_was_without_recipes(make_args) -> None:
    args = make_args(recipe="plastic", per_device_train_batch_size=100)
    settings = {
        "learning_rate": 1e-3, "layer_decay": 1.0, "freeze_blocks": 0.0, "head_learning_rate": 1e-3,
        "head_epochs": 5.0, "num_train_epochs": 60.0, "warmup_steps": 0.2, "guard": "off",
    }  # fmt: skip
    assert {name: getattr(args, name) for name in settings} == settings
    assert recipe_changes(args) == {} and args.own_settings()["recipe_changes"] == "none"


def test_the_default_is_one_of_them(tmp_path: Path) -> None:
    assert parse(tmp_path).recipe == DEFAULT_RECIPE in RECIPES


def test_every_recipe_sets_the_same_settings() -> None:
    assert {frozenset(recipe) for recipe in RECIPES.values()} == {frozenset(RECIPES["plastic"])}


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_gentle_rate_grows_with_the_root_of_the_batch_over_all_processes(monkeypatch, processes: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    nothing = dict.fromkeys(RECIPES["gentle"])
    args = SimpleNamespace(recipe="gentle", per_device_train_batch_size=24, **nothing)
    fill_in(args, {})
    assert args.learning_rate == pytest.approx(2e-5 * math.sqrt(processes), rel=5e-3)


@pytest.mark.parametrize(
    "recipe, changed",
    [
        ("plastic", {"learning_rate": 1e-4, "max_steps": 50}),  # whose layer decay is 1
        ("gentle", {"learning_rate": 1e-4, "layer_decay": 1.0, "max_steps": 50}),
    ],
)
def test_given_settings_win_and_those_that_differ_are_named(tmp_path: Path, recipe: str, changed: dict) -> None:
    words = ["--recipe", recipe, "--learning_rate", "1e-4", "--layer_decay", "1", "--max_steps", "50"]
    args = parse(tmp_path, *words)
    assert (args.learning_rate, args.layer_decay, args.max_steps) == (1e-4, 1.0, 50)
    assert args.freeze_blocks == RECIPES[recipe]["freeze_blocks"]
    assert recipe_changes(args) == changed
    assert args.own_settings()["recipe_changes"] == ", ".join(f"{name}={value}" for name, value in changed.items())


def test_copies_take_the_values_of_their_own_recipe_and_batch(make_args) -> None:
    args = make_args(recipe="gentle", per_device_train_batch_size=24, layer_decay=0.9)
    smaller = fit_batch(args, 6)
    assert smaller.per_device_train_batch_size == 6
    assert smaller.learning_rate == pytest.approx(2e-5 / 2) and smaller.layer_decay == 0.9
    other = dataclasses.replace(smaller, recipe="plastic")
    assert (other.learning_rate, other.freeze_blocks, other.guard, other.layer_decay) == (1e-3, 0, "off", 0.9)
    assert recipe_changes(other) == {"layer_decay": 0.9}
    given = dataclasses.replace(args, learning_rate=1e-5, guard="warn")
    again = dataclasses.replace(given, per_device_train_batch_size=6)
    assert (again.learning_rate, again.guard) == (1e-5, "warn") and again.is_given("guard")


DUPLICATES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda args: pickle.loads(pickle.dumps(args))}


@pytest.mark.parametrize("way", DUPLICATES)
def test_a_duplicate_knows_what_was_given(make_args, way: str) -> None:
    args = make_args(recipe="gentle", per_device_train_batch_size=24, freeze_blocks=0.5, layer_decay=0.9)
    duplicate = DUPLICATES[way](args)
    assert duplicate.to_dict() == args.to_dict() and recipe_changes(duplicate) == {"layer_decay": 0.9}
    assert not duplicate.is_given("guard")
    other = dataclasses.replace(duplicate, recipe="plastic")
    assert (other.freeze_blocks, other.learning_rate, other.guard) == (0.5, 1e-3, "off")


def test_arguments_of_a_json_file_are_all_given(make_args, tmp_path: Path) -> None:
    args = make_args(recipe="gentle", per_device_train_batch_size=24, layer_decay=0.9, disable_tqdm=True)
    (tmp_path / "args.json").write_text(args.to_json_string())
    read = json.loads((tmp_path / "args.json").read_text())
    names = [*RECIPES["gentle"], "recipe", "per_device_train_batch_size", "output_dir", "use_cpu"]
    (back,) = HfArgumentParser(UaMixTrainingArguments).parse_dict({name: read[name] for name in names})
    assert {name: getattr(back, name) for name in names} == {name: getattr(args, name) for name in names}
    assert recipe_changes(back) == {"layer_decay": 0.9}
    assert "from_recipe" not in read


@pytest.mark.parametrize("recipe", RECIPES)
def test_all_values_are_plain(make_args, recipe: str) -> None:
    """Their class goes into the optimiser's state and the schedule, and checkpoints with other classes do not load."""
    args = make_args(recipe=recipe, per_device_train_batch_size=24)
    for found in (args, fit_batch(args, 6), dataclasses.replace(args, max_steps=3)):
        assert {type(getattr(found, name)) for name in RECIPES[recipe]} == {float, str}
        assert {type(value) for value in found.own_settings().values()} <= {str, int, float, bool, type(None)}
    assert args.own_settings()["recipe"] == recipe


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_file_of_a_checkpoint_is_read_without_code(make_model, make_dataset, make_args, extractor, recipe):
    given = {"head_steps": 1, "max_steps": 2, "save_strategy": "steps", "save_steps": 1, "report_to": "none"}
    args = make_args(recipe=recipe, **given)
    train_stages(make_model(), args, make_dataset([64] * 6), extractor)
    read = set()
    for folder in (Path(args.output_dir) / "head" / "checkpoint-1", Path(args.output_dir) / "checkpoint-2"):
        for file in folder.iterdir():
            if file.name == "training_args.bin":  # an object, which nothing reads
                found = get_unsafe_globals_in_checkpoint(file)
                own = {name for name in found if name.startswith("uamix_hf")}
                assert own == {f"{UaMixTrainingArguments.__module__}.UaMixTrainingArguments"}
            elif file.suffix in (".pt", ".pth"):
                with safe_globals():  # numpy's random state
                    torch.load(file, weights_only=True)
            elif file.suffix == ".safetensors":
                load_file(file)
            else:
                assert file.suffix == ".py" or json.loads(file.read_text())
            read.add(file.name)
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "training_args.bin"} <= read
    assert ("guard.safetensors" in read) == (RECIPES[recipe]["guard"] != "off")


def test_a_recipe_reaches_the_optimiser_and_the_frozen_layers(make_model, make_dataset, make_args, extractor) -> None:
    args = make_args(recipe="gentle", guard="off", per_device_train_batch_size=6, max_steps=1)
    model = make_model()  # of three layers
    trainer = StageTrainer(model, args, make_dataset([64] * 8), extractor)
    rates = {group["lr"] for group in trainer.parameter_groups()}
    assert sorted(rates) == pytest.approx([1e-5 * 0.65**2, 1e-5 * 0.65, 1e-5, 1e-3])
    assert not model.encoder.layers[0].mlp.fc1.weight.requires_grad


@pytest.mark.parametrize(
    "given, message",
    [
        ({"recipe": "wild"}, "recipe='wild': there are gentle and plastic"),
        ({"guard": "yes"}, "guard='yes': there are stop, warn, off"),
        ({"guard": "off", "guard_steps": 5}, "guard_steps: without effect here, goes with guard=stop or guard=warn"),
        ({"guard": "warn", "guard_fraction": 1.0}, "guard_fraction=1.0 is outside"),
        ({"guard": "warn", "guard_steps": -1}, "guard_steps=-1"),
        ({"interpolate": 1.0}, re.escape("interpolate=1.0 is outside (0, 1)")),
    ],
)
def test_unusable_settings_are_refused_by_name(make_args, given, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_args(**given)


def test_the_page_has_the_values_of_every_recipe() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("| | `plastic`") and f"`{DEFAULT_RECIPE}`, the default" in line for line in lines)
    for name in RECIPES["plastic"]:
        (line,) = [line for line in lines if line.startswith(f"| `{name}`")]
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        expected = [RECIPES[recipe][name] for recipe in ("plastic", "gentle")]
        for cell, value in zip(cells, expected, strict=True):
            assert (cell == value) if isinstance(value, str) else (float(cell.split()[0]) == value), line
