"""all_reduce over gloo at two ranks. Answers `shared BYTES` with the seconds of one, the mean of as many as the
other subjects do, after two that are not measured."""
import time

import torch
import torch.distributed as dist

import ranks

torch.set_num_threads(1)
rank = ranks.start(2)


def answer(request):
    size = int(request.split()[1])
    data = torch.zeros(size // 4)
    calls = max(2, min(2000, (128 << 20) // size))
    for call in range(calls + 2):
        if call == 2:
            start = time.perf_counter()
        dist.all_reduce(data)
    return (time.perf_counter() - start) / calls


ranks.serve(2, rank, answer)
