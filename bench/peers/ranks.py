"""Ranks of a PyTorch peer over gloo: rank 0 starts the others and passes requests on to them."""
import json
import os
import subprocess
import sys
import tempfile

import torch
import torch.distributed as dist

REQUEST_BYTES = 256


def start(world_size):
    """Joins the process group; rank 0 starts the other ranks as copies of this program.

    BENCH_MACHINES: what to put before the command of each rank, a JSON list of lists of words.
    """
    rank = int(os.environ.get("BENCH_RANK", "0"))
    if world_size == 1:
        return rank
    if rank == 0:
        os.environ["BENCH_STORE"] = os.path.join(tempfile.mkdtemp(), "store")
        machines = json.loads(os.environ.get("BENCH_MACHINES", "null")) or [[]] * world_size
        for other in range(1, world_size):
            subprocess.Popen(
                [*machines[other], sys.executable, *sys.argv],
                env={**os.environ, "BENCH_RANK": str(other)},
                stdin=subprocess.DEVNULL,
            )
    dist.init_process_group(
        "gloo",
        init_method="file://" + os.environ["BENCH_STORE"],
        rank=rank,
        world_size=world_size,
    )
    return rank


def serve(world_size, rank, answer):
    """Answers every line of rank 0's input with what `answer` gives; it runs on all ranks at once."""

    def share(request):
        message = torch.zeros(REQUEST_BYTES, dtype=torch.uint8)
        if rank == 0:
            encoded = request.encode()
            message[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
        if world_size > 1:
            dist.broadcast(message, 0)
        return bytes(message.tolist()).rstrip(b"\0").decode()

    if rank > 0:
        while request := share(""):
            answer(request)
        return
    print("ready", flush=True)
    for line in sys.stdin:
        share(line.strip())
        print(answer(line.strip()), flush=True)
    share("")
