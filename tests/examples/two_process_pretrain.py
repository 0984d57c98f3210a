"""pretrain.py as it is, run by a launcher; each process leaves its weights and the ids of the clips that it saw."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import pretrain  # noqa: E402


class Traced(pretrain.PretrainingTrainer):
    seen: list[int] = []

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen.append(inputs["sample_id"].tolist())
        return super().training_step(model, inputs, *args, **kwargs)

    def train(self, *args, **kwargs):
        result = super().train(*args, **kwargs)
        trace = {"world_size": self.args.world_size, "seen": self.seen, "weights": self.model.state_dict(),
                 "learning_rate": self.args.learning_rate}  # fmt: skip
        torch.save(trace, Path(self.args.output_dir) / f"trace-{self.args.process_index}.pt")
        return result


pretrain.PretrainingTrainer = Traced
pretrain.main()
