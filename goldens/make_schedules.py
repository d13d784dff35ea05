"""Writes schedules.json and loss-scale.json: what DeepSpeed itself does, step by step.

Run with a Python that has deepspeed and torch: python goldens/make_schedules.py
Each schedule entry lists what optimizer step 0, 1, 2, ... uses. Each loss-scale entry lists the
scale after each step, "raised" where DeepSpeed ends the run.
"""
import json
import pathlib

import torch
import deepspeed
from deepspeed import comm
from deepspeed.runtime import lr_schedules
from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaleConfig

HERE = pathlib.Path(__file__).parent
BASE_LR = 3e-4


def run_schedule(kind, params, steps):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=BASE_LR)
    schedule = getattr(lr_schedules, kind)(optimizer, **params)
    group = optimizer.param_groups[0]
    used = []
    for _ in range(steps):
        used.append({"lr": float(group["lr"]), "betas": [float(b) for b in group["betas"]]})
        schedule.step()
    return {
        "type": kind,
        "params": params,
        "lr": [step["lr"] for step in used],
        "betas": [step["betas"] for step in used] if kind == "OneCycle" else None,
    }


CYCLE = {"cycle_min_lr": 1e-4, "cycle_max_lr": 1e-3, "cycle_first_step_size": 5}
CASES = [
    ("WarmupLR", {"warmup_num_steps": 8}, 14),
    ("WarmupLR", {"warmup_min_lr": 1e-5, "warmup_max_lr": 2e-3, "warmup_num_steps": 7, "warmup_type": "linear"}, 14),
    ("WarmupLR", {"warmup_max_lr": 1e-3, "warmup_num_steps": 1}, 6),
    ("WarmupDecayLR", {"total_num_steps": 20, "warmup_num_steps": 5}, 26),
    ("WarmupDecayLR", {"total_num_steps": 20, "warmup_min_lr": 1e-4, "warmup_max_lr": 5e-3, "warmup_num_steps": 6, "warmup_type": "linear"}, 26),
    ("WarmupDecayLR", {"total_num_steps": 4, "warmup_num_steps": 6}, 12),
    ("WarmupCosineLR", {"total_num_steps": 20, "warmup_num_steps": 5}, 28),
    ("WarmupCosineLR", {"total_num_steps": 20, "warmup_num_steps": 5, "warmup_min_ratio": 0.1, "cos_min_ratio": 0.05, "warmup_type": "linear"}, 28),
    ("WarmupCosineLR", {"total_num_steps": 4, "warmup_num_steps": 6}, 12),
    ("LRRangeTest", {"lr_range_test_min_lr": 1e-4, "lr_range_test_step_size": 4, "lr_range_test_step_rate": 2.0}, 14),
    ("LRRangeTest", {"lr_range_test_step_size": 3, "lr_range_test_staircase": True}, 14),
    ("OneCycle", CYCLE, 16),
    ("OneCycle", {**CYCLE, "cycle_second_step_size": 8, "decay_step_size": 3, "decay_lr_rate": 0.5, "decay_mom_rate": 0.01}, 24),
    ("OneCycle", {**CYCLE, "cycle_second_step_size": 7, "cycle_first_stair_count": 2, "cycle_second_stair_count": 3}, 18),
    ("OneCycle", {**CYCLE, "cycle_min_mom": 0.5, "cycle_max_mom": 0.95, "decay_step_size": 2}, 18),
]


def run_zero_scaler(options, overflows):
    scaler = DynamicLossScaler(
        init_scale=2.0 ** options["initial_scale_power"],
        scale_window=options["loss_scale_window"],
        min_scale=options["min_loss_scale"],
        delayed_shift=options["hysteresis"],
        consecutive_hysteresis=options["consecutive_hysteresis"],
    )
    scales = []
    for overflow in overflows:
        try:
            scaler.update_scale(overflow)
        except Exception:
            scales.append("raised")
            break
        scales.append(scaler.cur_scale)
    return scales


class StageZero:
    """The part of FP16_Optimizer that its scale rule reads."""

    _update_scale = FP16_Optimizer._update_scale
    verbose = False

    def __init__(self, options):
        self.loss_scale_config = LossScaleConfig(
            torch.float16,
            dynamic_loss_scale=True,
            static_loss_scale=0,
            dynamic_loss_args={
                "init_scale": 2.0 ** options["initial_scale_power"],
                "scale_window": options["loss_scale_window"],
                "min_scale": options["min_loss_scale"],
            },
        )


def run_stage_zero(options, overflows):
    optimizer = StageZero(options)
    scales = []
    for overflow in overflows:
        optimizer._update_scale(overflow)
        scales.append(optimizer.loss_scale_config.cur_scale)
    return scales


def overflow_pattern(seed, steps, probability):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, generator=generator) < probability).tolist()


def main():
    schedules = [run_schedule(*case) for case in CASES]
    (HERE / "schedules.json").write_text(
        json.dumps({"deepspeed": deepspeed.__version__, "learningRate": BASE_LR, "schedules": schedules}) + "\n"
    )

    scalers = []
    for hysteresis in (1, 2, 3):
        for consecutive in (False, True):
            for window, minimum, power, probability in ((3, 1, 6, 0.3), (2, 0.25, 4, 0.15), (5, 1, 3, 0.6)):
                options = {
                    "loss_scale": 0,
                    "initial_scale_power": power,
                    "loss_scale_window": window,
                    "hysteresis": hysteresis,
                    "consecutive_hysteresis": consecutive,
                    "min_loss_scale": minimum,
                }
                overflows = overflow_pattern(len(scalers), 40, probability)
                scalers.append({
                    "options": options,
                    "overflows": [int(o) for o in overflows],
                    "zero": run_zero_scaler(options, overflows),
                    "stage0": run_stage_zero(options, overflows),
                })
    (HERE / "loss-scale.json").write_text(
        json.dumps({"deepspeed": deepspeed.__version__, "sequences": scalers}) + "\n"
    )


if __name__ == "__main__":
    comm.get_rank = lambda *_: 1  # the scaler logs on rank 0 only, and asks a process group for it
    main()
