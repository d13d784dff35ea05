"""all_reduce over gloo at two ranks. Answers `shared BYTES` with the seconds of one."""
import time

import torch
import torch.distributed as dist

import ranks

torch.set_num_threads(1)
rank = ranks.start(2)


def answer(request):
    size = int(request.split()[1])
    data = torch.zeros(size // 4)
    calls = max(1, min(2000, (64 << 20) // size))
    dist.barrier()
    start = time.perf_counter()
    for _ in range(calls):
        dist.all_reduce(data)
    return (time.perf_counter() - start) / calls


ranks.serve(2, rank, answer)
