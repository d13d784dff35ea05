"""DistributedDataParallel over gloo: slow_network.py RANKS MICROBATCHES HOOK SHAPE.

HOOK: none, fp16 or powersgd, the last after two whole steps. Answers a number with the seconds of so
many optimizer steps, which exchange gradients once.
"""
import contextlib
import json
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

import models
import ranks

world_size, micro_batches, hook = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
shape = json.loads(sys.argv[4])
torch.set_num_threads(1)
rank = ranks.start(world_size)
torch.manual_seed(rank)

model = models.build(shape)
model.train()
# PowerSGD's hook gets the all-reduces of two buckets in different orders on gloo: one bucket, then.
model = DistributedDataParallel(model, bucket_cap_mb=1024 if hook == "powersgd" else None)
if hook == "fp16":
    model.register_comm_hook(None, default_hooks.fp16_compress_hook)
if hook == "powersgd":
    state = powerSGD_hook.PowerSGDState(
        process_group=None, matrix_approximation_rank=4, start_powerSGD_iter=2
    )
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)


def step():
    optimizer.zero_grad(set_to_none=True)
    for micro_batch in range(micro_batches):
        last = micro_batch + 1 == micro_batches
        with contextlib.nullcontext() if last else model.no_sync():
            tokens = torch.randint(shape["vocabulary"], (shape["rows"], shape["length"]))
            (model(input_ids=tokens, labels=tokens).loss / micro_batches).backward()
    optimizer.step()


def steps(request):
    dist.barrier()
    start = time.perf_counter()
    for _ in range(int(request)):
        step()
    dist.barrier()
    return time.perf_counter() - start


ranks.serve(world_size, rank, steps)
