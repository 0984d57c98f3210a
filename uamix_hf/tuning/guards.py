"""Guards of tuning: whether an embedding stays useful, measured without labels on clips held out of tuning.

See docs/concepts/method.md, Guards.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerState

from ..data import FeatureCollator
from ..training.augmentations import two_views
from ..training.checkpoints import RunCheckpointError
from ..training.distributed import broadcast_from_first
from .callbacks import evaluating
from .embedding_measures import agreement, alignment, effective_rank, embedding_std, neighbours_of

logger = logging.getLogger(__name__)

FILE = "guard.safetensors"  # in each checkpoint
CHECKS = 5  # in a run, beside the start
# A guard fails below these fractions of the untuned encoder's; above the last one, tuning did next to nothing.
LEAST_STD, LEAST_RANK, LEAST_AGREEMENT, UNCHANGED = 0.5, 0.5, 0.5, 0.99


@dataclass
class GuardMeasures:
    """Measures of an encoder on the held-out clips.

    Args:
        embedding_std: See [`embedding_std`].
        effective_rank: See [`effective_rank`].
        neighbours: Fraction of the nearest neighbours that are those of the untuned encoder, see [`agreement`].
        alignment: Mean squared distance of two views of a clip, see [`alignment`]. Logged only.
    """

    embedding_std: float
    effective_rank: float
    neighbours: float
    alignment: float

    def failures(self, untuned: "GuardMeasures") -> list[str]:
        """What is wrong, in words; empty if all guards hold.

        Args:
            untuned: Measures of the encoder before tuning.
        """
        if not np.isfinite(list(asdict(self).values())).all():
            return ["the embeddings are not finite"]
        found = []
        for name, least, words in (
            ("embedding_std", LEAST_STD, "the embeddings collapse to a point"),
            ("effective_rank", LEAST_RANK, "the embeddings collapse to few dimensions"),
        ):
            now, before = getattr(self, name), getattr(untuned, name)
            if now < least * before:
                found.append(f"{words} ({name} {now:.3g}, untuned {before:.3g})")
        if self.neighbours < LEAST_AGREEMENT:
            found.append(f"only {self.neighbours:.0%} of the nearest neighbours are those of the untuned encoder")
        return found

    def logged(self) -> dict[str, float]:
        """The measures by the names under which they are logged."""
        return {f"guard_{name}": value for name, value in asdict(self).items()}


class GuardCallback(TrainerCallback):
    """Measures the encoder on held-out clips at the start, at intervals and at the end, and keeps the last that passed.

    A guard fails where the embedding collapses (`embedding_std` or `effective_rank` below half of the untuned
    encoder's), or where too few nearest neighbours are those of the untuned encoder. At the end, the encoder has the
    weights of the last check at which none failed, or the untuned ones. The state is saved in each checkpoint. Every
    process measures all clips; the first one decides.

    Args:
        dataset: Raw features of the clips, as [`cached_features`] returns them.
        collator: Makes batches of them.
        batch_size: Clips in a batch.
        stop: Whether training stops when a guard fails.
        steps: Steps between checks; 0: five times in the run.
        seed: Seed of the views, which are the same at each check.
    """

    def __init__(
        self, dataset: Dataset, collator: FeatureCollator, batch_size: int, stop: bool, steps: int = 0, seed: int = 0
    ):
        # A generator of its own: the check must not change what is trained.
        self.loader: DataLoader = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_size=batch_size,
            collate_fn=collator,  # type: ignore[arg-type]
            generator=torch.Generator(),
        )
        self.stop, self.steps, self.seed = stop, steps, seed
        self.log: Callable[[dict[str, float]], None] = lambda logs: None  # set by StageTrainer
        self.untuned: GuardMeasures | None = None
        self.neighbours = np.zeros((0, 0), np.int64)  # of the untuned encoder
        self.kept: GuardMeasures | None = None
        self.kept_step = self.checked_step = 0
        self.kept_weights: dict[str, torch.Tensor] = {}
        self.stopped = False

    # --- measuring

    @torch.no_grad()
    def embed(self, model: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Embeddings of the clips, and of two views of each, float (clips, embedding_size) each."""
        found: list[torch.Tensor] = []
        with evaluating(model), seeded(self.seed, model.device):
            for batch in self.loader:
                features, mask = batch["input_values"].to(model.device), batch["attention_mask"].to(model.device)
                lengths = mask.sum(1)
                whole = model.embed([model.normalize(features)], lengths)[0]
                one, other, frames = two_views(
                    features, lengths, model.config, model.adapter.patch, model.max_frames, model.adapter.domain
                )
                views = model.embed([model.normalize(one), model.normalize(other)], frames)[0]
                found.append(torch.cat([whole, views]).float().cpu())
        clips, views, others = torch.cat(found, dim=1).numpy()
        return clips, views, others

    def measure(self, model: Any) -> tuple[GuardMeasures, np.ndarray]:
        """Measures of the model's encoder, and the neighbours that its embeddings have."""
        clips, views, others = self.embed(model)
        if not all(np.isfinite(part).all() for part in (clips, views, others)):
            return GuardMeasures(*[float("nan")] * 4), self.neighbours
        neighbours = neighbours_of(clips)
        common = agreement(neighbours, self.neighbours) if self.untuned else 1.0
        return (
            GuardMeasures(embedding_std(clips), effective_rank(clips), common, alignment(views, others)),
            neighbours,
        )

    def check(self, model: Any, state: TrainerState) -> bool:
        """Checks the encoder, and keeps it if no guard fails; the same answer on all processes."""
        assert self.untuned is not None
        measures, _ = self.measure(model)
        failures = measures.failures(self.untuned)
        passed = not broadcast_from_first(float(bool(failures)), model.device)
        self.checked_step = state.global_step
        self.log(measures.logged())
        if passed:
            self.keep(model, measures, state.global_step)
        else:
            logger.warning(
                "Guards failed after step %d: %s. The encoder of step %d, the last that passed, is kept%s. Lower the "
                "learning rate, choose --recipe gentle, or switch the guards off (--guard off) where an encoder is "
                "weak and its neighbours should change.", state.global_step, "; ".join(failures), self.kept_step,
                ", and tuning stops" if self.stop else "; tuning goes on",
            )  # fmt: skip
        return passed

    def keep(self, model: Any, measures: GuardMeasures | None, step: int) -> None:
        """Keeps the encoder's weights."""
        self.kept, self.kept_step = measures, step
        self.kept_weights = {name: value.detach().cpu().clone() for name, value in model.tunable_state().items()}

    # --- during training

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        if self.untuned is None:  # of a resumed run, the checkpoint has it
            self.untuned, self.neighbours = self.measure(model)
            self.keep(model, self.untuned, 0)
        if state.global_step == 0:
            self.log(self.untuned.logged())

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        every = self.steps or max(1, state.max_steps // CHECKS)
        if model.stage == "head" or (state.global_step % every and state.global_step != state.max_steps):
            return  # in stage 1 the encoder is frozen
        step_is_logged = control.should_log  # a log of ours must not stand in for the step's own
        passed = self.check(model, state)
        control.should_log = step_is_logged
        if not passed and self.stop:
            self.stopped = control.should_training_stop = True

    def finish(self, model: Any, state: TrainerState) -> None:
        """Gives the encoder the weights that were kept; called after the last step of the second stage.

        Args:
            model: The model.
            state: State of the trainer, in whose log the step of these weights and their measures are.
        """
        if self.checked_step != state.global_step:  # another callback ended training
            self.check(model, state)
        if self.kept_step != state.global_step:
            logger.warning(
                "The result is %s: guards failed later, until the last step, %d.",
                f"the encoder of step {self.kept_step}" if self.kept_step else "the untuned encoder",
                state.global_step,
            )
            model.encoder.load_state_dict(self.kept_weights, strict=False)
        assert self.kept is not None
        if self.kept_step and self.kept.neighbours > UNCHANGED:
            logger.warning("Tuning has hardly changed the encoder, which keeps %.1f %% of its nearest neighbours: weak "
                           "ones take --recipe plastic, others a larger learning_rate.",
                           100 * self.kept.neighbours)  # fmt: skip
        state.log_history.append({**self.kept.logged(), "guard_step": self.kept_step, "step": state.global_step})

    def measure_interpolated(self, model: Any, state: TrainerState) -> None:
        """Measures the encoder after its weights were interpolated, and warns where guards fail on it.

        Args:
            model: The model.
            state: State of the trainer, in whose log the measures are.
        """
        assert self.untuned is not None
        measures, _ = self.measure(model)
        if failures := measures.failures(self.untuned):
            logger.warning(
                "Guards fail on the interpolated weights, though not on those before and after tuning: %s. Choose "
                "another fraction, or leave --interpolate out.", "; ".join(failures),
            )  # fmt: skip
        state.log_history.append(measures.logged() | {"step": state.global_step})

    # --- checkpoints

    def save(self, folder: str | Path, model: Any, state: TrainerState) -> None:
        """Saves the state into a checkpoint; weights only where they are not those of the checkpoint.

        Args:
            folder: Folder of the checkpoint.
            model: The model.
            state: State of the trainer.
        """
        assert self.untuned is not None and self.kept is not None
        numbers = {
            "untuned": asdict(self.untuned), "kept": asdict(self.kept), "kept_step": self.kept_step,
            "checked_step": self.checked_step, "stopped": self.stopped,
        }  # fmt: skip
        same = model.stage == "head" or self.kept_step == state.global_step
        tensors = {} if same else {f"kept.{name}": value for name, value in self.kept_weights.items()}
        tensors["neighbours"] = torch.from_numpy(np.ascontiguousarray(self.neighbours))
        save_file(tensors, Path(folder) / FILE, metadata={"numbers": json.dumps(numbers)})

    def load(self, folder: str | Path, model: Any) -> None:
        """Loads the state of a checkpoint whose weights the model has already.

        Args:
            folder: Folder of the checkpoint.
            model: The model.

        Raises:
            RunCheckpointError: a checkpoint that was saved without guards.
        """
        numbers = read_numbers(folder)
        self.untuned = GuardMeasures(**numbers["untuned"])
        with safe_open(Path(folder) / FILE, framework="pt") as file:
            names = set(file.keys())
            self.neighbours = file.get_tensor("neighbours").numpy()
            weights = {name.removeprefix("kept."): file.get_tensor(name) for name in names - {"neighbours"}}
        self.keep(model, GuardMeasures(**numbers["kept"]), numbers["kept_step"])
        self.kept_weights |= weights
        self.checked_step, self.stopped = numbers["checked_step"], numbers["stopped"]


def read_numbers(folder: str | Path) -> dict[str, Any]:
    """Numbers that [`GuardCallback.save`] wrote into a checkpoint.

    Raises:
        RunCheckpointError: a checkpoint that was saved without guards.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise RunCheckpointError(
            f"{folder} was saved without guards, so the untuned encoder's neighbours are unknown: resume with "
            "--guard off, or start a new run in another output_dir."
        )
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["numbers"])


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Context with torch's random states of a seed, on the CPU and a device, after which they are as before."""
    accelerator: Any = None if device.type == "cpu" else torch.get_device_module(device)
    state = None if accelerator is None else accelerator.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            if accelerator is not None:
                accelerator.manual_seed(seed)
            yield
        finally:
            if accelerator is not None:
                accelerator.set_rng_state(state)


__all__ = ["GuardCallback", "GuardMeasures", "read_numbers"]
