"""Exports the attentions that sparse_attention must find: both exporters of torch.onnx, attention written out
(eager), as transformers' default (sdpa), and as the operator that opset 23 has; and an encoder and decoder
whose position bias is trained.

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


def gpt2(layers, attention):
    return FirstOutput(GPT2LMHeadModel(GPT2Config(
        n_layer=layers, n_embd=8, n_head=2, n_positions=32, use_cache=False,
        **{**COMMON, "attn_implementation": attention})))


def llama(layers, attention):
    return FirstOutput(LlamaForCausalLM(LlamaConfig(
        num_hidden_layers=layers, hidden_size=16, intermediate_size=12, num_attention_heads=4,
        num_key_value_heads=2, use_cache=False,
        **{**COMMON, "attn_implementation": attention})))


def bert(layers, attention):
    return FirstOutput(BertModel(BertConfig(
        num_hidden_layers=layers, hidden_size=8, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=32, **{**COMMON, "attn_implementation": attention})))


def t5():
    return Seq2Seq(T5ForConditionalGeneration(T5Config(
        num_layers=1, d_model=8, d_kv=4, d_ff=12, num_heads=2, vocab_size=11,
        relative_attention_num_buckets=4, use_cache=False, decoder_start_token_id=0)))


@torch.no_grad()
def export(name, model, dynamo, opset=18):
    path = HERE / f"{name}.onnx"
    torch.onnx.export(
        model.eval(), (IDS, torch.ones_like(IDS)), path, input_names=["ids", "mask"],
        output_names=["y"], opset_version=opset, dynamo=dynamo, external_data=False)
    # Stack traces of the exporter's machine are most of the file.
    exported = onnx.load(path)
    del exported.metadata_props[:]
    for part in [exported.graph, *exported.graph.node, *exported.graph.value_info]:
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(exported, path)


if __name__ == "__main__":
    torch.manual_seed(0)
    families = {"gpt2": gpt2, "llama": llama, "bert": bert}
    for name, model in families.items():
        export(f"{name}-dynamo", model(2, "eager"), True)
    export("t5-export", t5(), False)
    for name, model in families.items():
        export(f"{name}-sdpa-export", model(1, "sdpa"), False)
        export(f"{name}-sdpa-dynamo", model(1, "sdpa"), True)
        export(f"{name}-attention", model(1, "sdpa"), True, opset=23)
    export("t5-dynamo", t5(), True)
