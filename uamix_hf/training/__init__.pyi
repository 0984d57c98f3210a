from .checkpoints import RunCheckpointError, last_complete_checkpoint
from .encoders import EncoderAdapter, EncoderError
from .interruption import RunStoppedError
from .lora import LoraArguments, LoraError
from .models import EncoderArguments, with_random_weights
from .run_identity import AnotherRunError
from .trainer import LengthBucketTrainer, NonFiniteLossError

__all__ = [
    "AnotherRunError",
    "EncoderAdapter",
    "EncoderArguments",
    "EncoderError",
    "LengthBucketTrainer",
    "LoraArguments",
    "LoraError",
    "NonFiniteLossError",
    "RunCheckpointError",
    "RunStoppedError",
    "last_complete_checkpoint",
    "with_random_weights",
]
