"""A language model of transformers under DeepSpeed's ZeRO, CPU accelerator: zero_deepspeed.py RANKS THREADS STAGE SHAPE.

Answers `run` with the seconds of a step, anything else with the bytes that resident memory of all ranks has grown by
since everything was imported; a page that several processes map counts in parts.
"""
import json
import os
import re
import sys
import time

os.environ["DS_ACCELERATOR"] = "cpu"
import deepspeed
import torch
import torch.distributed as dist

import models
import ranks


def resident():
    with open("/proc/self/smaps_rollup") as file:
        return int(re.search(r"^Pss:\s+(\d+) kB", file.read(), re.M).group(1)) * 1024


world_size, threads, stage = (int(word) for word in sys.argv[1:4])
shape = json.loads(sys.argv[4])
torch.set_num_threads(threads)
rank = ranks.start(world_size)
# What DeepSpeed reads of a launcher.
os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
torch.manual_seed(rank)
baseline = resident()

model = models.build(shape)
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
layer = 12 * shape["width"] ** 2
engine, *_ = deepspeed.initialize(
    model=model,
    optimizer=optimizer,
    dist_init_required=False,
    config={
        "train_micro_batch_size_per_gpu": shape["rows"],
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": True,
            "reduce_bucket_size": 2_500_000,
            "stage3_prefetch_bucket_size": 2_500_000,
            "stage3_param_persistence_threshold": 10 * shape["width"],
            "stage3_max_live_parameters": 2 * layer,
            "stage3_max_reuse_distance": layer,
        },
    },
)


def step():
    dist.barrier()
    start = time.perf_counter()
    tokens = torch.randint(shape["vocabulary"], (shape["rows"], shape["length"]))
    loss = engine(input_ids=tokens, labels=tokens).loss
    engine.backward(loss)
    engine.step()
    loss.item()
    return time.perf_counter() - start


def answer(request):
    if request == "run":
        return step()
    grown = torch.tensor([float(resident() - baseline)], dtype=torch.float64)
    dist.all_reduce(grown)
    return int(grown.item())


for _ in range(2):
    step()
ranks.serve(world_size, rank, answer)
