"""Writes optimizers.json: twenty steps of PyTorch's optimizers (and DeepSpeed's CPU Lion) in fp32.

    PEERS_PYTHON goldens/make_optimizers.py

Weights and gradients come from a fixed rule, so that the file only holds results:
value(k) = ((k * 1103515245 + 12345) mod 65536) / 32768 - 1, weight i = value(i),
gradient i of step s (from 1) = value(1000 * s + i). Checked by src/native/optimizer.test.ts.
"""
import json
import pathlib

import torch

COUNT, STEPS = 19, 20


def value(k):
    return ((k * 1103515245 + 12345) % 65536) / 32768 - 1


def vector(start):
    return torch.tensor([value(start + i) for i in range(COUNT)], dtype=torch.float32)


def lion(parameters, **options):
    from deepspeed.ops.lion import DeepSpeedCPULion

    return DeepSpeedCPULion(parameters, **options)


def hyper(lr, beta1=0, beta2=0, eps=0, weightDecay=0, **more):
    return {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weightDecay": weightDecay,
            "biasCorrection": True, **more}


CASES = [
    ("adamw", hyper(1e-2, 0.9, 0.999, 1e-8, 0.1), torch.optim.AdamW,
     dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)),
    ("adam", hyper(1e-2, 0.8, 0.95, 1e-6, 0.05), torch.optim.Adam,
     dict(lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.05)),
    ("sgd", hyper(0.1, weightDecay=0.01), torch.optim.SGD, dict(lr=0.1, weight_decay=0.01)),
    ("sgd", hyper(0.1, 0.9, weightDecay=0.01, dampening=0.3), torch.optim.SGD,
     dict(lr=0.1, momentum=0.9, weight_decay=0.01, dampening=0.3)),
    ("sgd", hyper(0.1, 0.9, weightDecay=0.01, nesterov=True), torch.optim.SGD,
     dict(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)),
    ("lion", hyper(1e-2, 0.9, 0.99, weightDecay=0.1), lion,
     dict(lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)),
    ("adagrad", hyper(1e-1, eps=1e-10, weightDecay=0.01), torch.optim.Adagrad,
     dict(lr=1e-1, eps=1e-10, weight_decay=0.01)),
]


def run(make, options):
    weight = torch.nn.Parameter(vector(0))
    optimizer = make([weight], **options)
    for step in range(1, STEPS + 1):
        weight.grad = vector(1000 * step)
        optimizer.step()
    return [float(v) for v in weight.detach()]


def main():
    cases = [{"kind": kind, "hyper": h, "weights": run(make, options)}
             for kind, h, make, options in CASES]
    target = pathlib.Path(__file__).with_name("optimizers.json")
    target.write_text(json.dumps({"torch": torch.__version__, "steps": STEPS, "cases": cases}) + "\n")


main()
