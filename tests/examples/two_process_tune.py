"""tune.py as it is, run by a launcher; each process saves its neighbour queue and the number of processes."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import tune  # noqa: E402

import uamix_hf.trainer  # noqa: E402

train_stages = uamix_hf.trainer.train_stages


def train_and_leave_traces(model, args, *rest):
    trainer = train_stages(model, args, *rest)
    trace = {"world_size": dist.get_world_size(), **model.neighbour_queue.state_dict(), **model.encoder.state_dict()}
    torch.save(trace, Path(args.output_dir) / f"trace-{dist.get_rank()}.pt")
    return trainer


uamix_hf.trainer.train_stages = train_and_leave_traces
tune.main()
