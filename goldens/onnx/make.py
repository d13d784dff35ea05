"""Makes the ONNX files of this folder with the official Python library (onnx 1.23).

    python goldens/onnx/make.py

Deterministic: the same files every time. src/graph/codec/*.test.ts reads them.
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent


def save(name, graph, opset=17, ir=8, **kwargs):
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir,
        producer_name="golden", **kwargs)
    onnx.checker.check_model(model)
    onnx.save(model, HERE / name)
    return model


def mlp():
    """Raw data, symbols, every attribute kind, metadata, an absent input, inner types."""
    rng = np.random.default_rng(0)
    w = numpy_helper.from_array(rng.standard_normal((4, 3)).astype(np.float32), "w")
    half = numpy_helper.from_array(rng.standard_normal(3).astype(np.float16), "half")
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="gemm", alpha=0.5, transB=0),
        helper.make_node("Cast", ["half"], ["b"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Add", ["h", "b"], ["s"], name="add"),
        helper.make_node("Clip", ["s", "", "six"], ["c"], name="clip"),
        helper.make_node("Constant", [], ["six"], name="six", value_float=6.0),
        helper.make_node("Transpose", ["c"], ["y"], name="transpose", perm=[1, 0]),
    ]
    nodes = [nodes[4]] + nodes[:4] + nodes[5:]
    entry = nodes[1].metadata_props.add()
    entry.key, entry.value = "segment", "h.0"
    graph = helper.make_graph(
        nodes, "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, "batch"])],
        [w, half],
        value_info=[helper.make_tensor_value_info("h", TensorProto.FLOAT, ["batch", 3])])
    model = save("mlp.onnx", graph, ir=10)
    helper.set_model_props(model, {"task": "golden"})
    onnx.save(model, HERE / "mlp.onnx")


def typed_data():
    """One initializer of each element type, in the typed fields (float_data and so on)."""
    values = {
        "FLOAT": [1.5, -2.0], "DOUBLE": [0.1, -1e300], "FLOAT16": [0.5, -65504.0],
        "BFLOAT16": [1.0, -0.0078125], "INT8": [-128, 127], "INT16": [-32768, 32767],
        "INT32": [-2**31, 2**31 - 1], "INT64": [-2**53, 2**53], "UINT8": [0, 255],
        "UINT16": [0, 65535], "UINT32": [0, 2**32 - 1], "UINT64": [0, 2**53],
        "BOOL": [False, True], "STRING": [b"one", b"two"],
    }
    initializers, outputs, nodes = [], [], []
    for kind, data in values.items():
        dtype = getattr(TensorProto, kind)
        initializers.append(helper.make_tensor(f"t_{kind}", dtype, [2], data))
        nodes.append(helper.make_node("Identity", [f"t_{kind}"], [kind], name=f"id_{kind}"))
        outputs.append(helper.make_tensor_value_info(kind, dtype, [2]))
    save("typed-data.onnx", helper.make_graph(nodes, "typed", [], outputs, initializers))


def branch():
    """A subgraph that reads a value of the graph around it; nodes out of order."""
    def arm(name, op):
        return helper.make_graph(
            [helper.make_node(op, ["x"], [name], name=op)], name, [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2])])
    nodes = [
        helper.make_node("If", ["cond"], ["y"], name="if",
                         then_branch=arm("then", "Exp"), else_branch=arm("else", "Neg")),
    ]
    graph = helper.make_graph(
        nodes, "branch",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2]),
         helper.make_tensor_value_info("cond", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])])
    save("branch.onnx", graph)


def external():
    """Tensors in a second file, at offsets."""
    a = numpy_helper.from_array(np.arange(300, dtype=np.float32), "a")
    b = numpy_helper.from_array(np.arange(300, dtype=np.float32)[::-1].copy(), "b")
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"], name="add")], "external", [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [300])], [a, b])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (HERE / "external.onnx_data").unlink(missing_ok=True)
    onnx.save(model, HERE / "external.onnx", save_as_external_data=True,
              location="external.onnx_data", size_threshold=100)


def function():
    """A model with a function of its own, which is refused by name."""
    body = helper.make_function(
        "own", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])],
        [helper.make_opsetid("", 17)])
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["y"], name="twice", domain="own")], "function",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])])
    model = helper.make_model(
        graph, functions=[body], ir_version=8,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)])
    onnx.save(model, HERE / "function.onnx")


if __name__ == "__main__":
    mlp()
    typed_data()
    branch()
    external()
    function()
