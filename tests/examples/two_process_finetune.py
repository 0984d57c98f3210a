"""finetune.py as it is, run by a launcher; each process leaves its weights and which clips it trained on behind."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import finetune  # noqa: E402

from uamix_hf.fine_tuning import FineTuningTrainer, runs  # noqa: E402


class TracedTrainer(FineTuningTrainer):
    def train(self, *args, **kwargs):
        self.clips: list[list[int]] = []
        output = super().train(*args, **kwargs)
        trace = {"world_size": dist.get_world_size(), "weights": self.model.state_dict(), "clips": self.clips}
        torch.save(trace, Path(self.args.output_dir) / f"trace-{dist.get_rank()}.pt")
        return output

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.clips.append(inputs["sample_id"].tolist())
        return super().compute_loss(model, inputs, *args, **kwargs)


runs.FineTuningTrainer = TracedTrainer
finetune.main()
