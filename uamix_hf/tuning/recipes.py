"""Recipes of tuning: settings that belong together, by name (docs/concepts/method.md, Recipes of tuning)."""

import math
import os
from collections.abc import Mapping
from dataclasses import field
from typing import Any

# `plastic` reshapes weak features; `gentle` keeps what a well pretrained encoder knows.
RECIPES: dict[str, dict[str, Any]] = {
    "plastic": {
        "learning_rate": 1e-3,
        "layer_decay": 1.0,
        "freeze_blocks": 0.0,
        "head_learning_rate": 1e-3,
        "head_epochs": 5.0,
        "num_train_epochs": 60.0,
        "warmup_steps": 0.2,
        "guard": "off",
    },
    "gentle": {
        "learning_rate": 2e-5,
        "layer_decay": 0.65,
        "freeze_blocks": 0.5,
        "head_learning_rate": 1e-3,
        "head_epochs": 5.0,
        "num_train_epochs": 5.0,
        "warmup_steps": 0.2,
        "guard": "stop",
    },
}
DEFAULT_RECIPE = "gentle"  # harm to a good encoder is worse than a weak one's smaller gain
# Clips of a step that a recipe's learning rate is for. It grows with the square root of their number, as suits AdamW,
# whose steps do not grow with the gradient. Recipes without an entry have one rate, whatever the batch.
RATE_OF_CLIPS = {"gentle": 24}
# Numbers of steps that win over a recipe's epochs, with their value for none.
STEPS = {"max_steps": -1, "head_steps": -1}


def recipe_field(description: str) -> Any:
    """Field of a dataclass whose value is the recipe's unless it is given.

    Args:
        description: Its help text.
    """
    return field(default=None, metadata={"help": f"{description} The recipe's if unset."})


def recipe_values(recipe: str, clips: int) -> dict[str, Any]:
    """Values of a recipe by the names of the arguments.

    Args:
        recipe: Its name.
        clips: Clips of a step, over all processes.

    Raises:
        ValueError: no such recipe.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe={recipe!r}: there are {' and '.join(sorted(RECIPES))}.")
    values = dict(RECIPES[recipe])
    if recipe in RATE_OF_CLIPS:
        rate = values["learning_rate"] * math.sqrt(max(0, clips) / RATE_OF_CLIPS[recipe])
        values["learning_rate"] = float(f"{rate:.3g}")  # to be read and given again
    return values


def step_clips(args: Any) -> int:
    """Clips of a step over all processes, before there are any."""
    return args.per_device_train_batch_size * int(os.environ.get("WORLD_SIZE", "1"))


def fill_in(args: Any, before: Mapping[str, Any]) -> dict[str, Any]:
    """Sets the arguments that were not given to the values of the recipe `args.recipe`.

    Args:
        args: Arguments with the fields of a recipe, changed in place.
        before: What the recipe of the arguments that these are a copy of had set, by name: where a value is still that,
            it was not given, and follows the copy's own recipe and batch.

    Returns:
        What the recipe has set, by name.

    Raises:
        ValueError: no such recipe.
    """
    values = recipe_values(args.recipe, step_clips(args))
    given = {name: getattr(args, name) for name in values}
    own = {
        name: value
        for name, value in values.items()
        if given[name] is None or (name in before and given[name] == before[name])
    }
    for name, value in own.items():
        setattr(args, name, value)
    return own


def check_start(args: Any, fresh: str | None) -> None:
    """Refuses a recipe's learning rate for pretrained weights where none are trained.

    Args:
        args: Arguments that [`fill_in`] has completed.
        fresh: What training starts from that was not pretrained, such as `"random weights"`; None if nothing is.

    Raises:
        ValueError: such a start, with the gentle recipe's learning rate.
    """
    if fresh and args.recipe == "gentle" and "learning_rate" in args.from_recipe:
        raise ValueError(
            f"recipe=gentle has a learning rate of {args.learning_rate:g}, for pretrained weights, which hardly moves "
            f"{fresh}: use recipe='plastic' (--recipe plastic), or give a learning_rate."
        )


def recipe_changes(args: Any) -> dict[str, Any]:
    """What differs from the recipe, by the names of the arguments.

    Args:
        args: Arguments that [`fill_in`] has completed.
    """
    values = recipe_values(args.recipe, step_clips(args)) | STEPS
    return {name: getattr(args, name) for name, value in values.items() if getattr(args, name) != value}


__all__ = [
    "DEFAULT_RECIPE", "RECIPES", "check_start", "fill_in", "recipe_changes", "recipe_field", "recipe_values",
    "step_clips",
]  # fmt: skip
