"""A language model of transformers: train_gpt.py RANKS THREADS MODE SHAPE, MODE eager or compile.

Answers `run` with the seconds of a step.
"""
import json
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import models
import ranks

world_size, threads, mode = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
shape = json.loads(sys.argv[4])
torch.set_num_threads(threads)
rank = ranks.start(world_size)
torch.manual_seed(rank)

model = models.build(shape)
model.train()
if world_size > 1:
    model = DistributedDataParallel(model)
if mode == "compile":
    model = torch.compile(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)


def step(_):
    if world_size > 1:
        dist.barrier()
    start = time.perf_counter()
    tokens = torch.randint(shape["vocabulary"], (shape["rows"], shape["length"]))
    optimizer.zero_grad(set_to_none=True)
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    loss.item()
    return time.perf_counter() - start


ranks.serve(world_size, rank, step)
