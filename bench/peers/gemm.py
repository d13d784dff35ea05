"""PyTorch's product of fp32 matrices: gemm.py THREADS. Answers `TRANS M N K REPEAT` with the seconds of one."""
import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]))
operands = {}


def matrices(trans, m, n, k):
    """As stored, so that op(A) is [m, k] and op(B) is [k, n]."""
    key = (trans, m, n, k)
    if key not in operands:
        operands.clear()
        a = torch.rand(k, m).t() if trans[0] == "t" else torch.rand(m, k)
        b = torch.rand(n, k).t() if trans[1] == "t" else torch.rand(k, n)
        operands[key] = a, b, torch.empty(m, n)
    return operands[key]


print("ready", flush=True)
for line in sys.stdin:
    trans, *sizes = line.split()
    m, n, k, repeat = map(int, sizes)
    a, b, c = matrices(trans, m, n, k)
    start = time.perf_counter()
    for _ in range(repeat):
        torch.mm(a, b, out=c)
    print((time.perf_counter() - start) / repeat, flush=True)
