"""Exports the attentions that sparse_attention must find: both exporters of torch.onnx, and an encoder and
decoder whose position bias is trained.

    python goldens/onnx/export_attention.py

Made with torch 2.13, transformers 5.23, onnx 1.23, onnxscript 0.7. src/graph/passes/sparse-attention.test.ts
reads the files.
"""

import pathlib

import onnx
import torch
from export_transformers import COMMON, FirstOutput
from transformers import (BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig,
                          LlamaForCausalLM, T5Config, T5ForConditionalGeneration)

HERE = pathlib.Path(__file__).parent
IDS = torch.arange(64).reshape(2, 32) % 11


class Seq2Seq(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        return self.model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids)[0]


def export(name, model, dynamo):
    path = HERE / f"{name}.onnx"
    torch.onnx.export(
        model.eval(), (IDS, torch.ones_like(IDS)), path, input_names=["ids", "mask"],
        output_names=["y"], opset_version=18, dynamo=dynamo, external_data=False)
    # Stack traces of the exporter's machine are most of the file.
    exported = onnx.load(path)
    del exported.metadata_props[:]
    for part in [exported.graph, *exported.graph.node, *exported.graph.value_info]:
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(exported, path)


if __name__ == "__main__":
    torch.manual_seed(0)
    export("gpt2-dynamo", FirstOutput(GPT2LMHeadModel(GPT2Config(
        n_layer=2, n_embd=8, n_head=2, n_positions=32, use_cache=False, **COMMON))), True)
    export("llama-dynamo", FirstOutput(LlamaForCausalLM(LlamaConfig(
        num_hidden_layers=2, hidden_size=16, intermediate_size=12, num_attention_heads=4,
        num_key_value_heads=2, use_cache=False, **COMMON))), True)
    export("bert-dynamo", FirstOutput(BertModel(BertConfig(
        num_hidden_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=32, **COMMON))), True)
    export("t5-export", Seq2Seq(T5ForConditionalGeneration(T5Config(
        num_layers=1, d_model=8, d_kv=4, d_ff=12, num_heads=2, vocab_size=11,
        relative_attention_num_buckets=4, use_cache=False, decoder_start_token_id=0))), False)
