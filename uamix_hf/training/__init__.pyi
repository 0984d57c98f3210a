from .checkpoints import RunCheckpointError, last_complete_checkpoint
from .encoders import EncoderAdapter, EncoderError
from .interruption import RunStoppedError
from .run_identity import AnotherRunError
from .trainer import LengthBucketTrainer, NonFiniteLossError

__all__ = [
    "AnotherRunError",
    "EncoderAdapter",
    "EncoderError",
    "LengthBucketTrainer",
    "NonFiniteLossError",
    "RunCheckpointError",
    "RunStoppedError",
    "last_complete_checkpoint",
]
