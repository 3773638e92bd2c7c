"""Text as Bark reads it: tokens of BERT's multilingual vocabulary, 256 a text."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoTokenizer

from labsupport.bark.models import SHAPES
from labsupport.base.errors import BarkError

LONGEST = 256  # tokens of a text
VOCABULARY = 119_547  # of bert-base-multilingual-cased


def encode_text(texts: Sequence[str], name: str) -> tuple[Tensor, Tensor]:
    """Texts as int64 tokens (texts, 256), and a mask of the same shape: 1 for a token, 0 for padding.

    Args:
        name: as for `models.load`. A shape with random weights has no vocabulary: there each word's checksum gives its
            token.

    Raises:
        BarkError: a text has more than 256 tokens.
    """
    if name in SHAPES:
        rows = [[zlib.crc32(word.encode()) % VOCABULARY for word in text.split()] for text in texts]
    else:
        rows = AutoTokenizer.from_pretrained(name)(list(texts), add_special_tokens=False)["input_ids"]
    longest = max(range(len(rows)), key=lambda row: len(rows[row]))
    if len(rows[longest]) > LONGEST:
        what = f"A text has {len(rows[longest])} tokens; Bark reads {LONGEST}."
        raise BarkError(what, where=texts[longest][:60], hint="Split it into sentences, one text each.")
    tokens = torch.zeros(len(rows), LONGEST, dtype=torch.long)  # (texts, 256)
    mask = torch.zeros_like(tokens)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[place, : len(row)] = 1
    return tokens, mask
