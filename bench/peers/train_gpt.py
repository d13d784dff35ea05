"""GPT-2 of transformers: train_gpt.py RANKS THREADS ATTENTION SHAPE. Answers `run` with seconds."""
import json
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import GPT2Config, GPT2LMHeadModel

import ranks

world_size, threads, attention = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
shape = json.loads(sys.argv[4])
torch.set_num_threads(threads)
rank = ranks.start(world_size)
torch.manual_seed(rank)

model = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=shape["vocabulary"],
        n_positions=shape["length"],
        n_embd=shape["width"],
        n_layer=shape["layers"],
        n_head=shape["width"] // 64,
        embd_pdrop=0,
        attn_pdrop=0,
        resid_pdrop=0,
        use_cache=False,
        attn_implementation=attention,
    )
)
model.train()
if world_size > 1:
    model = DistributedDataParallel(model)
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
