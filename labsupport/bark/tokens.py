"""Text as Bark reads it: tokens of BERT's multilingual vocabulary, 256 a text."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from labsupport.bark.models import SHAPES, find_folder
from labsupport.base.errors import BarkError, printable

LONGEST = 256  # tokens of a text
VOCABULARY = 119_547  # of bert-base-multilingual-cased


def encode_text(texts: Sequence[str], name: str) -> tuple[Tensor, Tensor]:
    """Texts as int64 tokens (texts, 256), and a mask of the same shape: 1 for a token, 0 for padding.

    Args:
        name: as for `models.load`. A shape with random weights has no vocabulary: there each word's checksum gives its
            token.

    Raises:
        BarkError: a text has more than 256 tokens, or the folder's tokenizer is damaged or another than Bark's.
        CheckpointError, FolderError: as for `models.find_folder`.
    """
    if name in SHAPES:
        rows = [[zlib.crc32(word.encode()) % VOCABULARY for word in text.split()] for text in texts]
    else:
        rows = read_tokenizer(find_folder(name))(list(texts), add_special_tokens=False)["input_ids"]
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


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A folder's tokenizer; no code of the folder is executed."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # `tokenizers` raises no class of its own for JSON that is no tokenizer
        raise BarkError(f"The tokenizer cannot be read: {printable(error)}", where=folder) from error
    if len(tokenizer) > VOCABULARY:
        raise BarkError(f"The tokenizer has {len(tokenizer):,} tokens; Bark's has {VOCABULARY:,}.", where=folder)
    return tokenizer
