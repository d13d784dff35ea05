"""Exports tiny transformers the way users do: torch.onnx.export of Hugging Face models.

    python goldens/onnx/export_transformers.py

Made with torch 2.13, transformers 5.23, onnx 1.23, opset 17. src/graph/exported.test.ts reads the files.
"""

import pathlib

import torch
from transformers import (BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig,
                          LlamaForCausalLM)

HERE = pathlib.Path(__file__).parent
COMMON = dict(vocab_size=11, attn_implementation="eager", bos_token_id=0, eos_token_id=0)


class FirstOutput(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        return self.model(input_ids=ids, attention_mask=mask)[0]


def export(name, model):
    ids = torch.arange(10).reshape(2, 5) % 11
    torch.onnx.export(
        FirstOutput(model.eval()), (ids, torch.ones_like(ids)), HERE / f"{name}.onnx",
        input_names=["ids", "mask"], output_names=["y"], opset_version=17, dynamo=False,
        dynamic_axes={name: {0: "batch", 1: "length"} for name in ("ids", "mask")})


if __name__ == "__main__":
    torch.manual_seed(0)
    export("gpt2-export", GPT2LMHeadModel(GPT2Config(
        n_layer=1, n_embd=8, n_head=2, n_positions=16, use_cache=False, **COMMON)))
    export("llama-export", LlamaForCausalLM(LlamaConfig(
        num_hidden_layers=1, hidden_size=16, intermediate_size=12, num_attention_heads=4,
        num_key_value_heads=2, use_cache=False, **COMMON)))
    export("bert-export", BertModel(BertConfig(
        num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=16, **COMMON)))
