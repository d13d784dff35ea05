"""Writes sparse-layouts.json: what DeepSpeed's layout classes make.

DeepSpeed dropped them after 0.18; only their file is needed, beside torch:

    pip download deepspeed==0.17.5 --no-deps --no-binary :all: && tar xf deepspeed-0.17.5.tar.gz
    python goldens/make_sparse_layouts.py deepspeed-0.17.5/deepspeed/ops/sparse_attention/sparsity_config.py

Each layout is a list of distinct head bitmaps ("1" where a row of blocks attends) and the bitmap of every
head. Layouts with random blocks come with several draws; their generator is Python's and cannot be the same.
"""
import importlib.util
import json
import pathlib
import random
import sys

HERE = pathlib.Path(__file__).parent

CASES = [
    ("dense", {"block": 16}, 64, 2),
    ("fixed", {}, 256, 2),
    ("fixed", {"attention": "unidirectional"}, 256, 2),
    ("fixed", {"block": 32, "num_local_blocks": 6, "num_global_blocks": 2}, 416, 2),
    ("fixed", {"num_local_blocks": 4, "num_global_blocks": 2, "attention": "unidirectional"}, 240, 2),
    ("fixed", {"horizontal_global_attention": True}, 176, 1),
    ("fixed", {"different_layout_per_head": True, "num_different_global_patterns": 4}, 208, 6),
    ("fixed", {"different_layout_per_head": True, "num_different_global_patterns": 3, "attention": "unidirectional"}, 160, 4),
    ("fixed", {"num_local_blocks": 8, "num_global_blocks": 4}, 64, 1),
    ("fixed", {"num_local_blocks": 1, "num_global_blocks": 1}, 80, 1),
    ("variable", {}, 160, 2),
    ("variable", {"local_window_blocks": [1, 3, 2]}, 224, 1),
    ("variable", {"local_window_blocks": [2, 30]}, 96, 1),
    ("variable", {"local_window_blocks": [1, 2], "global_block_indices": [0, 5], "attention": "unidirectional"}, 176, 1),
    ("variable", {"global_block_indices": [1, 6], "global_block_end_indices": [3, 7], "horizontal_global_attention": True}, 160, 1),
    ("variable", {"global_block_indices": [2], "global_block_end_indices": [5], "attention": "unidirectional"}, 160, 1),
    ("variable", {"num_random_blocks": 2, "local_window_blocks": [2]}, 256, 2),
    ("variable", {"num_random_blocks": 1, "different_layout_per_head": True}, 160, 3),
    ("bigbird", {"num_random_blocks": 0}, 160, 2),
    ("bigbird", {"num_random_blocks": 0, "num_sliding_window_blocks": 4, "num_global_blocks": 2}, 160, 1),
    ("bigbird", {"num_random_blocks": 0, "num_sliding_window_blocks": 5, "attention": "unidirectional"}, 160, 1),
    ("bigbird", {"num_random_blocks": 2, "different_layout_per_head": True}, 256, 3),
    ("bigbird", {"attention": "unidirectional"}, 256, 2),
    ("bslongformer", {}, 160, 2),
    ("bslongformer", {"num_sliding_window_blocks": 1, "global_block_indices": [0, 4]}, 128, 1),
    ("bslongformer", {"global_block_indices": [1, 7], "global_block_end_indices": [3, 8], "attention": "unidirectional"}, 160, 1),
    ("bslongformer", {"num_sliding_window_blocks": 7}, 160, 1),
    ("local", {}, 128, 2),
    ("local", {"num_sliding_window_blocks": 5, "attention": "bidirectional"}, 128, 1),
    ("local", {"num_sliding_window_blocks": 2}, 96, 1),
]

CLASSES = {
    "dense": "DenseSparsityConfig",
    "fixed": "FixedSparsityConfig",
    "variable": "VariableSparsityConfig",
    "bigbird": "BigBirdSparsityConfig",
    "bslongformer": "BSLongformerSparsityConfig",
    "local": "LocalSlidingWindowSparsityConfig",
}


def load(path):
    spec = importlib.util.spec_from_file_location("sparsity_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(module, mode, keys, length, heads):
    config = getattr(module, CLASSES[mode])(num_heads=heads, **keys)
    bitmaps, indices = [], []
    for head in config.make_layout(length).tolist():
        rows = ["".join(map(str, row)) for row in head]
        if rows not in bitmaps:
            bitmaps.append(rows)
        indices.append(bitmaps.index(rows))
    return {"bitmaps": bitmaps, "heads": indices}


def has_random_blocks(mode, keys):
    return keys.get("num_random_blocks", 1 if mode == "bigbird" else 0) > 0 and mode in ("variable", "bigbird")


def main():
    module = load(sys.argv[1])
    random.seed(0)
    cases = []
    for mode, keys, length, heads in CASES:
        draws = 3 if has_random_blocks(mode, keys) else 1
        layouts = [draw(module, mode, keys, length, heads) for _ in range(draws)]
        cases.append({"mode": mode, "keys": keys, "sequenceLength": length, "heads": heads, "layouts": layouts})
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    (HERE / "sparse-layouts.json").write_text(f'{{"deepspeed": "0.17.5", "cases": [\n{lines}\n]}}\n')


main()
