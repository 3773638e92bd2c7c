"""Texts as Bark's tokens."""

from __future__ import annotations

import pytest
import torch

from labsupport.bark.tokens import LONGEST, encode_text
from labsupport.base.errors import BarkError


def test_tokens_and_mask_end_with_the_text():
    tokens, mask = encode_text(["one two", "two"], "bark-lesson")
    assert tokens.shape == mask.shape == (2, LONGEST)
    assert mask.sum(dim=1).tolist() == [2, 1]
    assert tokens[0, 1] == tokens[1, 0]  # a word has one token
    assert torch.equal(tokens > 0, mask.bool())


def test_a_text_that_bark_would_cut_off_is_refused():
    with pytest.raises(BarkError, match="257 tokens"):
        encode_text(["one", "word " * 257], "bark-lesson")
    assert encode_text(["word " * 256], "bark-lesson")[1].all()


@pytest.mark.parametrize("content", [None, "{}", "[]", '{"model": {"type": "BPE"}}', "\0"])
def test_a_damaged_tokenizer_of_a_folder_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text('{"model_type": "bark"}')
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BarkError, match="The tokenizer cannot be read"):
        encode_text(["one"], str(tmp_path))
