"""Writes config-keys.json: the keys and defaults of DeepSpeed's own config classes and constants.

Run with a Python that has deepspeed: python goldens/make_config_keys.py
"""
import enum
import json
import pathlib

import deepspeed
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
from deepspeed.profiling.config import DeepSpeedFlopsProfilerConfig
from deepspeed.runtime import constants
from deepspeed.runtime.precision_config import get_bfloat16_config, get_float16_config
from deepspeed.runtime.swap_tensor.aio_config import AIO_DEFAULT_DICT
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig, DeepSpeedZeroOffloadParamConfig

HERE = pathlib.Path(__file__).parent
NOT_SCALAR = "not a scalar"


def plain(value):
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return value
    return NOT_SCALAR


def of_model(prefix, model):
    keys = {}
    for name, field in type(model).model_fields.items():
        keys[f"{prefix}.{field.alias or name}"] = plain(getattr(model, name))
    return keys


def main():
    keys = {}
    keys |= of_model("zero_optimization", DeepSpeedZeroConfig())
    keys |= of_model("zero_optimization.offload_param", DeepSpeedZeroOffloadParamConfig())
    keys |= of_model("zero_optimization.offload_optimizer", DeepSpeedZeroOffloadOptimizerConfig())
    keys |= of_model("fp16", get_float16_config({}))
    keys |= of_model("bf16", get_bfloat16_config({}))
    keys |= of_model("tensorboard", TensorBoardConfig())
    keys |= of_model("csv_monitor", CSVConfig())
    keys |= of_model("wandb", WandbConfig())
    keys |= of_model("comet", CometConfig())
    keys |= of_model("comms_logger", CommsLoggerConfig())
    keys |= {f"flops_profiler.{k}": plain(v) for k, v in DeepSpeedFlopsProfilerConfig({}).__dict__.items()}
    keys |= {f"aio.{name}": plain(value) for name, value in AIO_DEFAULT_DICT.items()}
    # Top-level scalars: each constant NAME has its default beside it as NAME_DEFAULT.
    for constant in (
        "TRAIN_BATCH_SIZE", "TRAIN_MICRO_BATCH_SIZE_PER_GPU", "GRADIENT_ACCUMULATION_STEPS",
        "MANAGED_GRADIENT_ACCUMULATION", "GRADIENT_CLIPPING", "PRESCALE_GRADIENTS",
        "GRADIENT_PREDIVIDE_FACTOR", "GRADIENT_ALLREDUCE_OP", "COMMUNICATION_DATA_TYPE",
        "STEPS_PER_PRINT", "WALL_CLOCK_BREAKDOWN", "MEMORY_BREAKDOWN", "DUMP_STATE",
        "DISABLE_ALLGATHER", "DISABLE_PYTHON_GC", "DATALOADER_DROP_LAST", "LOG_LEVEL",
        "ZERO_ALLOW_UNTESTED_OPTIMIZER", "ZERO_FORCE_DS_CPU_OPTIMIZER", "VOCABULARY_SIZE",
        "USE_DATA_BEFORE_EXPERT_PARALLEL",
    ):
        keys[getattr(constants, constant)] = plain(getattr(constants, f"{constant}_DEFAULT"))
    (HERE / "config-keys.json").write_text(
        json.dumps({"deepspeed": deepspeed.__version__, "keys": keys}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
