"""The byte-level BPE tokenizer of the toy model.

Learns its merges from the corpus. Knows nothing about the network.
"""

import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from models.recipe.corpus import END_OF_TEXT, TURN_END, TURN_START, draw_document

VOCAB_SIZE = 3072
CONTEXT_TOKENS = 2048

# Words take their leading space along; digits stand alone, so that sums read digit by digit.
_PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def train_tokenizer(seed: int, num_documents: int = 20_000) -> PreTrainedTokenizerFast:
    """Learn the merges from freshly drawn documents.

    Args:
        seed: Seed of the documents; the same seed gives the same merges.
        num_documents: How many documents to learn from.

    Returns:
        A tokenizer with the special tokens and the chat template set.
    """
    rng = random.Random(seed)
    texts = (
        segment.text
        for _ in range(num_documents)
        for segment in draw_document(rng)
        if segment.text != END_OF_TEXT
    )
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[TURN_START],
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`.

    Args:
        tokenizer: The tokenizer to write.
        folder: Where to; made when absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
