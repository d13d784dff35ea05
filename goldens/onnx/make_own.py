"""Exports small models as users do, and what PyTorch computes when it trains them.

    python goldens/onnx/make_own.py

Made with torch 2.13, transformers 5.23, onnx 1.23. `own-gpt2.onnx` comes from the new exporter (dynamo,
opset 20), `own-classifier.onnx` from the old one (opset 17) with the loss in the graph. own-training.json
holds the loss and every parameter's gradient. src/hosts/onnx/own-onnx.test.ts reads them.
"""

import json
import pathlib

import onnx
import torch
from transformers import GPT2Config, GPT2LMHeadModel

HERE = pathlib.Path(__file__).parent


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def gpt2():
    """Gradients of next-token cross-entropy over two rows of different length."""
    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(
        n_layer=2, n_embd=8, n_head=2, n_positions=16, vocab_size=11, use_cache=False,
        tie_word_embeddings=False, attn_implementation="eager", bos_token_id=0,
        eos_token_id=0)).eval()
    # Fresh norms and biases are all equal, and equal tensors show no mistake of names.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ids = torch.tensor([[1, 5, 3, 7, 9, 2], [4, 4, 8, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    labels = torch.where(mask == 1, ids, -100)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    torch.onnx.export(
        Logits(model), (ids, mask), HERE / "own-gpt2.onnx", dynamo=True, opset_version=20,
        input_names=["input_ids", "attention_mask"], output_names=["logits"],
        dynamic_shapes={"input_ids": axes, "attention_mask": axes}, external_data=False)
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return dict(ids=ids.tolist(), mask=mask.tolist(), labels=labels.tolist(), loss=loss.item(),
                gradients=gradients(model))


class Classifier(torch.nn.Module):
    """Two layers with everything that LayerNorm, GELU and dropout-free networks decompose into."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.second = torch.nn.Linear(8, 3)

    def forward(self, x, label):
        hidden = torch.nn.functional.gelu(self.norm(self.first(x)))
        logits = self.second(hidden)
        return torch.nn.functional.cross_entropy(logits, label), logits


def classifier():
    torch.manual_seed(2)
    model = Classifier()
    x, label = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    torch.onnx.export(
        model, (x, label), HERE / "own-classifier.onnx", opset_version=17, dynamo=False,
        input_names=["x", "label"], output_names=["loss", "logits"], do_constant_folding=False,
        dynamic_axes={"x": {0: "batch"}, "label": {0: "batch"}, "logits": {0: "batch"}})
    loss, _ = model(x, label)
    loss.backward()
    return dict(x=x.tolist(), label=label.tolist(), loss=loss.item(), gradients=gradients(model))


def gradients(model):
    return {name: [float(f"{value:.8g}") for value in parameter.grad.flatten().tolist()]
            for name, parameter in model.named_parameters()}


def strip(name):
    """Leaves out what the exporters note of the machine and of their own work."""
    model = onnx.load(HERE / name)
    graph = model.graph
    for item in [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    graph.ClearField("value_info")
    onnx.save(model, HERE / name)


if __name__ == "__main__":
    training = dict(gpt2=gpt2(), classifier=classifier())
    (HERE / "own-training.json").write_text(json.dumps(training) + "\n")
    for file in ("own-gpt2.onnx", "own-classifier.onnx"):
        strip(file)
