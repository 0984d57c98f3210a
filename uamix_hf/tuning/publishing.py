"""What is made of a tuned encoder: its folder, its card and its repository."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers import TrainerState

from ..data import PreparedData
from ..embedding.encoders import base_of
from ..embedding.saving import save_encoder
from ..hub.cards import tuned_card
from ..hub.module_files import save_module_files
from ..hub.push import push_folder
from ..training.lora import adapter_settings
from .arguments import UaMixTrainingArguments
from .configuration_uamix import METHOD_FIELDS

# Logged values that the card and the output of `train` show, the last of each.
SHOWN = (
    "train_loss", "loss_clean", "loss_mixed", "embedding_std", "neighbour_purity", "knn_accuracy", "knn_neighbours",
    "guard_embedding_std", "guard_effective_rank", "guard_neighbours", "guard_alignment", "guard_step", "train_runtime",
)  # fmt: skip


class NotTunedError(RuntimeError):
    """Something of the tuned encoder was asked for before [`UaMixTrainer.train`], or training was asked for twice."""


class TunedEncoder:
    """The part of [`UaMixTrainer`] that saves, describes and uploads what it has tuned."""

    args: UaMixTrainingArguments
    model: Any
    feature_extractor: Any
    source: Any
    data: PreparedData | None
    state: TrainerState
    used: dict[str, Any]
    base_name: str | None
    random_weights: bool
    clips: int  # that the encoder was tuned on
    evaluations: list[Any]
    hub_url: str | None

    @property
    def encoder(self) -> Any:
        """The encoder that is tuned: an ordinary model to use and to save."""
        return self.model.encoder

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes and uploads."""
        return self.args.process_index == 0

    def save_model(self, output_dir: str | os.PathLike | None = None) -> None:
        """Saves the encoder, with the code that it needs elsewhere, and its preprocessor.

        The folder is for `from_pretrained`, and for sentence-transformers.

        Adapters, such as LoRA's, are merged into the saved weights; `adapter/` in the folder holds them alone.

        Args:
            output_dir: Folder; that of the arguments by default.
        """
        if self.writes:
            folder = str(output_dir or self.args.output_dir)
            save_encoder(self.encoder, folder, self.feature_extractor)
            save_module_files(folder)

    def create_model_card(self) -> ModelCard:
        """Writes the model card, `README.md` in the output folder: settings, training log and evaluations.

        Returns:
            The card.

        Raises:
            NotTunedError: the encoder has not been trained yet.
        """
        self.check_tuned("a card")
        encoder: Any = base_of(self.encoder)
        card = tuned_card(
            base_model=self.base_name,
            data=self.source.name,
            clips=self.clips,
            settings=self.used,
            results={name: f"{value:.4g}" for name, value in self.metrics().items()},
            repo_id=self.repo_id if self.args.push_to_hub else None,
            dataset=self.source.dataset_id,
            random_weights=self.random_weights,
            evaluations=[one.for_card() for one in self.evaluations],
            adapter=self.used.get("adapter"),
            encoder_type=encoder.config.model_type,
            has_code=encoder._auto_class is not None,
        )
        if self.writes:
            card.save(Path(str(self.args.output_dir)) / "README.md")
        return card

    def push_to_hub(
        self,
        repo_id: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload the tuned encoder",
    ) -> str | None:
        """Uploads encoder, preprocessor, code and card from the output folder; checkpoints stay here.

        Args:
            repo_id: Repository, created if need be; `args.hub_model_id` or the folder's name by default.
            private: Whether a new repository is private; `args.hub_private_repo` by default.
            token: Access token; `args.hub_token`, or that of the login, by default.
            commit_message: Title of the commit.

        Returns:
            Address of the commit, also in `trainer.hub_url`; None in processes other than the first.

        Raises:
            NotTunedError: the encoder has not been trained yet.
            huggingface_hub.errors.HfHubHTTPError: no right to write, or no connection. The folder stays as it is.
        """
        self.check_tuned("an upload")
        if self.writes:
            self.hub_url = push_folder(
                str(self.args.output_dir),
                repo_id or self.repo_id,
                self.args.hub_private_repo if private is None else private,
                token or self.args.hub_token,
                commit_message,
            )
        return self.hub_url

    @property
    def repo_id(self) -> str:
        """Repository to upload to by default."""
        return self.args.hub_model_id or Path(str(self.args.output_dir)).resolve().name

    def check_tuned(self, wanted: str) -> PreparedData:
        """Returns the training data, which there is after training alone.

        Raises:
            NotTunedError: the encoder has not been trained yet.
        """
        if self.data is None:
            raise NotTunedError(f"{wanted}: the encoder is not tuned yet, call train() first.")
        return self.data

    def metrics(self) -> dict[str, float]:
        """Last value of each logged number that is shown."""
        last: dict[str, float] = {}
        for entry in self.state.log_history:
            last |= {name: value for name, value in entry.items() if isinstance(value, (int, float))}
        return {name: last[name] for name in SHOWN if name in last}

    def settings(self, args: UaMixTrainingArguments) -> dict[str, Any]:
        """Settings that were used, for the card: the method's fields, and arguments that this package adds or changes.

        Args:
            args: Arguments of the second stage.
        """
        method = {name: getattr(self.model.config, name) for name in sorted(METHOD_FIELDS)}
        used = {"seed": args.seed, "updates": self.state.global_step, "processes": args.world_size}
        return method | args.own_settings() | adapter_settings(self.encoder) | used


__all__ = ["NotTunedError", "TunedEncoder"]
