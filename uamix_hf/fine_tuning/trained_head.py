"""The trained linear layer of a classifier's folder, for a run that goes on with the same classes."""

import logging
from typing import Any

import torch
from transformers import AutoConfig

from ..embedding.kinds import settings_of
from .models import adapter_of

logger = logging.getLogger(__name__)


@torch.no_grad()
def copy_trained_head(model: Any, name_or_path: str, revision: str = "main", trust_remote_code: bool = False) -> bool:
    """Copy what follows the encoder in a classifier's folder to a new classifier of the same classes.

    The order of the classes may differ. A layer of other classes, of another embedding or for another problem does not
    fit; this is logged.

    Args:
        model: Of [`make_classifier`], with the class names.
        name_or_path: Folder or Hub repository that the encoder was loaded from.
        revision: Branch, tag or commit of the repository.
        trust_remote_code: Whether to run code that comes with the model.

    Returns:
        Whether there is such a layer; it has been copied then.

    Raises:
        OSError: No such folder or repository.
    """
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    config: Any = AutoConfig.from_pretrained(name_or_path, **source)
    if type(model).__name__ not in (getattr(config, "architectures", None) or ()):
        return False
    theirs: Any = type(model).from_pretrained(name_or_path, revision=revision)
    numbers, names = theirs.config.label2id, [model.config.id2label[number] for number in range(model.num_labels)]
    kept = {name for name in theirs.state_dict() if not name.startswith(f"{theirs.base_model_prefix}.")}
    reason = None
    if set(numbers) != set(names):
        reason = f"it is for {len(numbers)} other classes"
    elif theirs.config.problem_type != model.config.problem_type:
        reason = f"it is for {theirs.config.problem_type}"
    elif embedding_of(theirs) != embedding_of(model):
        reason = "it is of another embedding"
    if reason:
        logger.warning("The linear layer of %s is not used: %s. A new one is trained.", name_or_path, reason)
        return False
    order = torch.tensor([numbers[name] for name in names])
    for name in kept:
        value = theirs.state_dict()[name]
        model.state_dict()[name].copy_(value[order] if name.startswith("classifier.") else value)
    model.has_new_head = False
    return True


def embedding_of(classifier: Any) -> tuple[Any, ...]:
    """What decides the input of a classifier's linear layer, beside the encoder's weights."""
    adapter = adapter_of(classifier)
    settings = settings_of(adapter.base)
    return len(adapter.layers), adapter.pooling, settings.layer, settings.pooling, classifier.classifier.in_features


__all__ = ["copy_trained_head"]
