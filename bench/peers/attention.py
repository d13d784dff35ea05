"""PyTorch's scaled_dot_product_attention: attention.py THREADS. A request is a pass, B, H, S, D and whether
the mask is causal; the answer its seconds. A backward belongs to the forward before it."""
import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

torch.set_num_threads(int(sys.argv[1]))
shape, inputs, result, gradient = None, [], None, None
print("ready", flush=True)
for line in sys.stdin:
    name, *numbers = line.split()
    wanted = [int(number) for number in numbers]
    if wanted != shape:
        shape = wanted
        inputs = [torch.randn(shape[:4], requires_grad=True) for _ in range(3)]
        gradient = torch.randn(shape[:4])
    if name == "forward":
        for tensor in inputs:
            tensor.grad = None
        start = time.perf_counter()
        result = scaled_dot_product_attention(*inputs, is_causal=shape[4] == 1)
    else:
        start = time.perf_counter()
        result.backward(gradient)
    print(time.perf_counter() - start, flush=True)
