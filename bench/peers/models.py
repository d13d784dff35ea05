"""The models of bench/ranks/model.ts in transformers, with fused attention unless told otherwise."""
import math

from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM


def build(shape, attention="sdpa"):
    width, heads = shape["width"], shape["width"] // 64
    if shape.get("family", "gpt2") == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=shape["vocabulary"],
                n_positions=shape["length"],
                n_embd=width,
                n_layer=shape["layers"],
                n_head=heads,
                embd_pdrop=0,
                attn_pdrop=0,
                resid_pdrop=0,
                use_cache=False,
                attn_implementation=attention,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape["vocabulary"],
            hidden_size=width,
            intermediate_size=math.ceil(8 * width / 3 / 64) * 64,
            num_hidden_layers=shape["layers"],
            num_attention_heads=heads,
            num_key_value_heads=heads // 3,
            max_position_embeddings=shape["length"],
            tie_word_embeddings=True,
            use_cache=False,
            attn_implementation=attention,
        )
    )
