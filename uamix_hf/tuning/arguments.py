"""Arguments of both stages of tuning, and the method's own."""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, fields, make_dataclass
from types import MappingProxyType
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ..data.checks import refuse_idle
from ..training.arguments import ONLY_FINISHED, REFUSED, UPLOADED_WHOLE, LayerwiseArguments, shards_weights
from ..training.docstrings import argument_descriptions
from .configuration_uamix import METHOD_FIELDS, MIXING_FIELDS, UaMixConfig
from .recipes import DEFAULT_RECIPE, RECIPES, fill_in, recipe_changes, recipe_field

EVALUATION = (
    "do_eval", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "per_device_eval_batch_size",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
)  # fmt: skip
NO_EVALUATION = "tuning has no labels to evaluate on; label_column adds a kNN check, UaMixTrainer.evaluate measures"
GUARDS = ("stop", "warn", "off")
# A command line gives one type for each flag.
FLAG_TYPES: dict[Any, Any] = {float | int: float, float | int | None: float | None}


def method_arguments() -> Any:
    """Dataclass of `METHOD_FIELDS`, with the defaults and the descriptions that [`UaMixConfig`] gives them."""
    described = argument_descriptions(UaMixConfig)
    defaults = {entry.name: entry.default for entry in fields(UaMixConfig)}
    types = UaMixConfig.__annotations__
    flags: list[tuple[str, Any, Any]] = [
        (
            name,
            FLAG_TYPES.get(types[name], types[name]),
            field(default=defaults[name], metadata={"help": described[name].replace("%", "%%")}),
        )
        for name in METHOD_FIELDS
    ]
    return make_dataclass("MethodArguments", flags)


MethodArguments: Any = method_arguments()


@dataclass
class UaMixTrainingArguments(MethodArguments, LayerwiseArguments):
    """All arguments of tuning: transformers' own, those of the two stages, and the fields of [`UaMixConfig`].

    transformers' arguments have the defaults of contrastive tuning (docs/concepts/method.md, Recipes of tuning). The
    ordinary ones, such as `max_steps` and `num_train_epochs`, are those of the second stage. The method's
    fields, such as `mix` and `queue_size`, are all of [`UaMixConfig`] but `encoder_config` and the statistics of the
    log-mels, which come from the encoder and its feature extractor.

    ```python
    args = UaMixTrainingArguments("tuned", mix="t-cutmix", max_steps=1000)
    ```

    Args:
        recipe: `"gentle"`, for well pretrained encoders, or `"plastic"`, for weak ones: learning rates, layer decay,
            frozen layers, epochs, warm-up and guard that belong together. What is given wins (docs/concepts/method.md,
            Recipes of tuning).
        head_steps: Steps of stage 1 (heads on the frozen encoder); wins over `head_epochs`.
        head_epochs: Epochs of stage 1; 0 leaves it out.
        head_learning_rate: Peak learning rate of the heads, in both stages.
        head_weight_decay: Weight decay of the heads.
        visit_frames: A clip comes once an epoch for each so many frames (10 ms) that it has; 0: once an epoch.
        encoder_batch_size: Views that pass the encoder at once, to bound memory; None: all.
        knn_steps: Steps between kNN checks where labels are known; 0: at the start and the end only.
        guard: `"stop"` ends tuning when a guard fails, `"warn"` goes on; both return the last encoder that passed.
            `"off"`: no guards (docs/concepts/method.md, Guards).
        guard_fraction: Fraction of the clips that are held out of tuning for the guards, 32 to 256 clips.
        guard_steps: Steps between checks of the guards; 0: five times in the run.
        interpolate: Fraction F, 0 < F < 1: [`UaMixTrainer`] returns (1 - F) times the weights before tuning plus F
            times the tuned weights; None: the tuned weights.
        whiten: Whether [`UaMixTrainer`] whitens the tuned encoder's embedding over the training clips.
        from_recipe: Left out; `dataclasses.replace` fills it in. As an attribute, what the recipe has set, by name.

    Raises:
        ValueError: a value out of range, an argument without effect, gradient accumulation, or weights that are sharded
            over processes.
    """

    recipe: str = field(
        default=DEFAULT_RECIPE,
        metadata={
            "help": "Settings that belong together: gentle for well pretrained encoders, plastic for weak ones. "
            "Settings that are given win.",
            "choices": sorted(RECIPES),
        },
    )
    head_steps: int = field(
        default=-1, metadata={"help": "Steps of stage 1 (heads on the frozen encoder); wins over epochs."}
    )
    head_epochs: float = recipe_field("Epochs of stage 1; 0 leaves it out.")
    head_learning_rate: float = recipe_field("Peak learning rate of the heads, in both stages.")
    head_weight_decay: float = field(default=1e-5, metadata={"help": "Weight decay of the heads."})
    visit_frames: int = field(
        default=0,
        metadata={"help": "A clip comes once an epoch for each so many frames (10 ms) that it has; 0: once an epoch."},
    )
    encoder_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Views (two of each clip, and its mixtures) that pass the encoder at once, which bounds memory. "
            "None: all. Gradients are those of the whole batch; the price is a second forward pass."
        },
    )
    knn_steps: int = field(
        default=0,
        metadata={"help": "Steps between kNN checks where labels are known; 0: at start and end only."},
    )
    guard: str = recipe_field(
        "What happens when the embedding collapses or its neighbours change too much: stop, warn (go on), or off."
    )
    guard_fraction: float = field(
        default=0.1,
        metadata={"help": "Fraction of the clips that are held out of tuning for the guards; 32 to 256 clips."},
    )
    guard_steps: int = field(
        default=0, metadata={"help": "Steps between checks of the guards; 0: five times in the run."}
    )
    interpolate: float | None = field(
        default=None,
        metadata={"help": "Fraction of the tuned weights in the result; the rest is the weights before tuning."},
    )
    whiten: bool = field(
        default=True, metadata={"help": "Whether to whiten the tuned encoder's embedding over the training clips."}
    )

    per_device_train_batch_size: int = field(default=64, metadata={"help": "Clips per step and process."})
    num_train_epochs: float = recipe_field("Epochs of stage 2.")
    learning_rate: float = recipe_field("Peak learning rate of the encoder.")
    layer_decay: float = recipe_field("Factor of the learning rate from each encoder layer to the one below.")
    freeze_blocks: float = recipe_field(
        "Lower encoder layers that stay frozen, with all that comes before them: a number, or a fraction below 1."
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of the encoder's matrices."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Decay of AdamW's second moment."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rates."})
    warmup_steps: float = recipe_field("Steps of warm-up, or their fraction if below 1.")
    logging_steps: float = field(default=10, metadata={"help": "Steps between logs."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "A short batch has fewer negatives."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "All parameters are used."})
    # Every process stores the same gathered keys; sending rank 0's neighbour queue at each step would be waste.
    ddp_broadcast_buffers: bool | None = field(
        default=False, metadata={"help": "The neighbour queues of all processes agree already."}
    )
    # No setting, so neither a flag nor saved; `dataclasses.replace` hands it on like one.
    from_recipe: InitVar[Mapping[str, Any]] = MappingProxyType({})

    refused = (
        REFUSED
        | dict.fromkeys(UPLOADED_WHOLE, ONLY_FINISHED)
        | dict.fromkeys(EVALUATION, NO_EVALUATION)
        | {
            "label_smoothing_factor": "labels are never learnt from",
        }
    )

    def __post_init__(self, from_recipe: Mapping[str, Any]) -> None:
        self.from_recipe = fill_in(self, from_recipe)
        super().__post_init__()
        self.uamix_config()
        self.check_guard()
        if self.interpolate is not None and not 0 < self.interpolate < 1:
            raise ValueError(
                f"interpolate={self.interpolate} is outside (0, 1). Leave it out to keep the tuned weights alone."
            )
        if self.save_strategy == "best":
            raise ValueError("save_strategy=best: tuning evaluates nothing, so no checkpoint is the best.")
        if shards_weights(self):
            raise ValueError(
                "Tuning with FSDP or DeepSpeed's ZeRO stage 3: one process could neither check neighbours nor save the "
                "encoder, since each would hold a part of the weights. Use examples/accelerate/multi_gpu.yaml; "
                "encoder_batch_size saves the memory of activations, which sharding leaves as they are."
            )
        if self.gradient_accumulation_steps > 1:
            raise ValueError(
                f"gradient_accumulation_steps={self.gradient_accumulation_steps}: clips are contrasted within a "
                "batch alone, so accumulation would not enlarge it: negatives stay as few as in a small batch. "
                "Raise per_device_train_batch_size and set encoder_batch_size to what fits in memory: gradients are "
                "those of the whole batch. Or use more processes, whose keys are shared."
            )
        if self.encoder_batch_size is not None and self.encoder_batch_size < 1:
            raise ValueError(f"encoder_batch_size={self.encoder_batch_size}: at least 1 view, or None for all of them.")

    def check_guard(self) -> None:
        """Checks the settings of the guards.

        Raises:
            ValueError: a value out of range, or settings without guards.
        """
        if self.guard not in GUARDS:
            raise ValueError(f"guard={self.guard!r}: there are {', '.join(GUARDS)}.")
        if self.guard == "off":
            refuse_idle(self, ("guard_fraction", "guard_steps"), "guard=stop or guard=warn")
        if not 0 < self.guard_fraction < 1:
            raise ValueError(f"guard_fraction={self.guard_fraction} is outside (0, 1). Use guard=off for no guards.")
        if self.guard_steps < 0:
            raise ValueError(f"guard_steps={self.guard_steps}: a number of steps, or 0 for five checks in the run.")

    def is_given(self, name: str) -> bool:
        by_recipe = name in self.from_recipe and getattr(self, name) == self.from_recipe[name]
        return not by_recipe and super().is_given(name)

    def own_settings(self) -> dict[str, Any]:
        changes = ", ".join(f"{name}={value}" for name, value in recipe_changes(self).items())
        return super().own_settings() | {"recipe_changes": changes or "none"}

    def method_settings(self) -> dict[str, Any]:
        """The method's fields by name, as [`UaMixForContrastiveTuning.from_encoder`] takes them."""
        return {name: getattr(self, name) for name in METHOD_FIELDS}

    def uamix_config(self, **more: Any) -> UaMixConfig:
        """The method's configuration.

        Args:
            **more: Its other fields, such as `input_mean`.

        Raises:
            ValueError: a value out of range, or a setting of mixtures with `mix="none"`.
        """
        if self.mix == "none":
            refuse_idle(self, MIXING_FIELDS, "mixtures, and mix is none")
        try:
            return UaMixConfig(**self.method_settings(), **more)
        except StrictDataclassError as error:
            raise ValueError(str(error.__cause__ or error)) from error

    def check_agreement(self, config: UaMixConfig, clips: int) -> None:
        """Checks that a model was made with the method's fields that are given here.

        A field at its default is taken as not given: then the model's own value counts.

        Args:
            config: Configuration of the model.
            clips: Number of training clips, to which the neighbour queue is shrunk.

        Raises:
            ValueError: a field that is given here and has another value in the model.
        """
        allowed: dict[str, tuple[Any, ...]] = {
            name: (getattr(self, name),) for name in METHOD_FIELDS if self.is_given(name)
        }
        if "queue_size" in allowed:
            allowed["queue_size"] = (self.queue_size, min(self.queue_size, clips))
        wrong = [
            f"{name}={values[0]!r} and the model has {getattr(config, name)!r}"
            for name, values in allowed.items()
            if getattr(config, name) not in values
        ]
        if wrong:
            raise ValueError(
                f"The arguments contradict the model: {'; '.join(wrong)}. Leave them out, or give UaMixTrainer the "
                "encoder, from which it makes a model with these arguments."
            )

    @property
    def has_head_stage(self) -> bool:
        """Whether stage 1 takes any steps."""
        return self.head_steps > 0 or (self.head_steps < 0 and self.head_epochs > 0)


__all__ = ["UaMixTrainingArguments"]
