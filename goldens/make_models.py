"""Makes the model goldens: tiny Hugging Face models with their loss, logits, gradients and a loss curve.

    ~/peers/bin/python goldens/make_models.py            # torch 2.13, transformers 5.23

Every case is a folder `goldens/models/<case>/`:

    config.json, model.safetensors   what `save_pretrained` writes (float32)
    golden.json                      scalars and the recipe of the training run
    golden.safetensors               input_ids, labels, attention_mask, logits, `grad.<parameter>`, and the
                                     batches of the training run (train.input_ids, train.labels)

Labels are shifted targets: labels[b, t] is what position t must predict, -100 where nothing counts.
Everything but masked_loss is computed in float64 and stored as float32, so that the goldens are exact
to rounding (Llama's softmax and norms are float32 inside transformers).
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent / "models"
VOCAB, BATCH, LENGTH, STEPS = 61, 3, 12, 20
IGNORE = -100

RECIPE = {
    "optimizer": "AdamW",
    "lr": 2e-3,
    "betas": [0.9, 0.95],
    "eps": 1e-8,
    "weight_decay": 0.1,
    "no_decay": "parameters with one dimension (biases and norms)",
    "max_norm": 0.5,
    "clipping": "factor = min(1, max_norm / (norm + 1e-6)) over all parameters",
    "warmup_steps": 5,
    "schedule": "lr(step) = lr * min(1, step / warmup_steps), step counts from 1",
    "loss": "sum of the cross-entropies of the counted targets / number of counted targets",
}

CASES = {
    "gpt2": lambda: gpt2(tie_word_embeddings=True),
    "gpt2-untied": lambda: gpt2(
        tie_word_embeddings=False,
        n_inner=40,
        activation_function="gelu",
        scale_attn_by_inverse_layer_idx=True,
        layer_norm_epsilon=1e-4,
    ),
    "llama": lambda: llama(tie_word_embeddings=False),
    "llama-tied": lambda: llama(
        tie_word_embeddings=True,
        attention_bias=True,
        mlp_bias=True,
        head_dim=12,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
}


def gpt2(**changes):
    options = dict(
        vocab_size=VOCAB, n_positions=32, n_embd=24, n_layer=2, n_head=3,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )
    return GPT2LMHeadModel(GPT2Config(**{**options, **changes}, attn_implementation="eager"))


def llama(**changes):
    options = dict(
        vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=0,
    )
    return LlamaForCausalLM(LlamaConfig(**{**options, **changes}, attn_implementation="eager"))


def batches(count, generator):
    """Sequences with something to learn: each token is mostly a fixed function of the one before."""
    tokens = torch.randint(VOCAB, (count, BATCH, LENGTH + 1), generator=generator)
    keep = torch.rand(tokens.shape, generator=generator) < 0.8
    for t in range(1, LENGTH + 1):
        tokens[..., t] = torch.where(keep[..., t], (tokens[..., t - 1] * 7 + 3) % VOCAB, tokens[..., t])
    labels = tokens[..., 1:].clone()
    labels[torch.rand(labels.shape, generator=generator) < 0.15] = IGNORE
    return tokens[..., :-1].contiguous(), labels


def loss_of(model, input_ids, labels, attention_mask=None):
    logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    total = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return total / (labels != IGNORE).sum(), logits


def train(model, inputs, labels):
    """The recipe above, one batch a step; returns the losses before each update and the gradient norms."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": RECIPE["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
        lr=RECIPE["lr"], betas=tuple(RECIPE["betas"]), eps=RECIPE["eps"],
    )
    losses, norms = [], []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RECIPE["lr"] * min(1.0, (step + 1) / RECIPE["warmup_steps"])
        optimizer.zero_grad()
        loss, _ = loss_of(model, inputs[step], labels[step])
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE["max_norm"]).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def make(name, build):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = build().eval()
    # The standard initialisation hides mistakes (zero biases, unit norms, near-uniform attention).
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    inputs, labels = batches(STEPS + 1, generator)

    # Left padding, where a wrong mask changes the loss (after right padding causality hides it). In
    # float32: transformers' Llama turns a double mask into -inf, and padding queries into NaN.
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[0, :3] = 0
    mask[1, :1] = 0
    masked_loss, _ = loss_of(model, inputs[0], labels[0].masked_fill(mask == 0, IGNORE), mask)

    model = model.double()
    loss, logits = loss_of(model, inputs[0], labels[0])
    loss.backward()
    tensors = {
        "input_ids": inputs[0].to(torch.uint8),
        "labels": labels[0].to(torch.int16),
        "attention_mask": mask.to(torch.uint8),
        "logits": logits.detach().float(),
        "train.input_ids": inputs[1:].to(torch.uint8),
        "train.labels": labels[1:].to(torch.int16),
    }
    for key, parameter in model.named_parameters():
        tensors[f"grad.{key}"] = parameter.grad.float()

    # Greedy continuation by recomputing the whole sequence for each token.
    sequence = inputs[0, :1, :4]
    with torch.no_grad():
        for _ in range(12):
            sequence = torch.cat([sequence, model(sequence, use_cache=False).logits[:, -1:].argmax(-1)], 1)

    losses, norms = train(model, inputs[1:], labels[1:])
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "golden.safetensors")
    golden = {
        "loss": loss.item(),
        "masked_loss": masked_loss.item(),
        "greedy": sequence[0].tolist(),
        "greedy_prompt_length": 4,
        "recipe": RECIPE,
        "train_losses": losses,
        "train_gradient_norms": norms,
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(name, f"{loss.item():.6f}", f"{losses[0]:.4f} -> {losses[-1]:.4f}", sorted(f.name for f in folder.iterdir()))


if __name__ == "__main__":
    for name, build in CASES.items():
        make(name, build)
