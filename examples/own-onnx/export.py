"""Makes model.onnx: a small untrained classifier of points in the plane, as torch.onnx.export writes it.

    python examples/own-onnx/export.py

The trainer needs no Python; any tool that writes float32 ONNX will do.
"""

import pathlib

import onnx
import torch

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Linear(2, 32), torch.nn.LayerNorm(32), torch.nn.GELU(),
    torch.nn.Linear(32, 32), torch.nn.LayerNorm(32), torch.nn.GELU(),
    torch.nn.Linear(32, 3))
path = pathlib.Path(__file__).parent / "model.onnx"
torch.onnx.export(
    model, (torch.zeros(2, 2),), path, dynamo=True, opset_version=20, external_data=False,
    input_names=["point"], output_names=["logits"],
    dynamic_shapes=({0: torch.export.Dim("batch")},))
exported = onnx.load(path)
for item in [exported, exported.graph, *exported.graph.node, *exported.graph.input]:
    item.ClearField("metadata_props")  # Notes of this machine's paths.
exported.graph.ClearField("value_info")
onnx.save(exported, path)
