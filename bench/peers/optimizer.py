"""AdamW of a peer: optimizer.py torch|deepspeed ELEMENTS THREADS. Answers `run` with seconds."""
import sys
import time

import torch

peer, elements, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
weight = torch.nn.Parameter(torch.full((elements,), 1e-3))
weight.grad = torch.full((elements,), 1e-3)
if peer == "torch":
    optimizer = torch.optim.AdamW([weight], lr=1e-4, weight_decay=0.1, fused=True)
else:
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    optimizer = DeepSpeedCPUAdam([weight], lr=1e-4, weight_decay=0.1, adamw_mode=True)
optimizer.step()  # allocates the state
print("ready", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    optimizer.step()
    print(time.perf_counter() - start, flush=True)
