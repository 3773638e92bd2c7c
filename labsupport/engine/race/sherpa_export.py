"""Whisper as the two ONNX graphs that sherpa-onnx runs: an encoder with the cross-attention's keys and values, and a
decoder with caches of fixed length. Runs in the race's environment.

Source: sherpa-onnx, scripts/whisper/export-onnx.py (names, shapes and metadata), and its C++ reader.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import whisper  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.nn.functional import gelu
from whisper.tokenizer import Tokenizer, get_tokenizer  # type: ignore[import-not-found]

OPSET = 17
CACHES = ("n_layer_self_k_cache", "n_layer_self_v_cache")
CROSS = ("n_layer_cross_k", "n_layer_cross_v")


class Encoder(nn.Module):
    """mel (batch, mels, frames) -> cross-attention's keys and values, each (layers, batch, frames / 2, d_model)

    Up to 3000 frames: sherpa-onnx does not fill a short recording up to 30 s.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.encoder = model.encoder
        self.attentions: Any = nn.ModuleList(block.cross_attn for block in model.decoder.blocks)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        encoder = self.encoder
        x = gelu(encoder.conv2(gelu(encoder.conv1(mel)))).transpose(1, 2)  # (batch, frames / 2, d_model)
        x = x + encoder.positional_embedding[: x.shape[1]]
        for block in encoder.blocks:
            x = block(x)
        encoder_out = encoder.ln_post(x)
        keys = [attention.key(encoder_out) for attention in self.attentions]
        values = [attention.value(encoder_out) for attention in self.attentions]
        return torch.stack(keys), torch.stack(values)


class Decoder(nn.Module):
    """The next tokens (batch, new), the self-attention's caches (layers, batch, 448, d_model), what the encoder gave,
    and how many places are filled (1,) -> logits (batch, new, vocab) and both caches with the new tokens.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, tokens: Tensor, past_keys: Tensor, past_values: Tensor, keys: Tensor, values: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        start, decoder = offset[0], self.decoder
        end = start + tokens.shape[1]
        x = decoder.token_embedding(tokens) + decoder.positional_embedding[start:end]  # (batch, new, d_model)
        filled = []
        for number, block in enumerate(decoder.blocks):
            h = block.attn_ln(x)
            k = torch.cat([past_keys[number, :, :start], block.attn.key(h)], dim=1)  # (batch, end, d_model)
            v = torch.cat([past_values[number, :, :start], block.attn.value(h)], dim=1)
            x = x + attend(block.attn, h, k, v, decoder.mask[start:end, :end])
            x = x + attend(block.cross_attn, block.cross_attn_ln(x), keys[number], values[number])
            x = x + block.mlp(block.mlp_ln(x))
            filled.append((k, v))
        logits = decoder.ln(x) @ decoder.token_embedding.weight.T
        caches = zip(*filled, strict=True)
        pasts = ((past_keys, next(caches)), (past_values, next(caches)))
        return (logits, *(torch.cat([torch.stack(new), past[:, :, end:]], dim=2) for past, new in pasts))


def attend(attention: Any, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """(batch, new, d_model) to keys and values (batch, places, d_model); ONNX lacks the fused operator."""
    q, k, v = (each.unflatten(-1, (attention.n_head, -1)) for each in (attention.query(x), keys, values))
    scores = torch.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k)  # (batch, heads, new, places)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return attention.out(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))


def describe(model: Any, tokenizer: Tokenizer) -> dict[str, object]:
    """What sherpa-onnx reads from the encoder's metadata."""
    codes, languages = tokenizer.all_language_codes, tokenizer.all_language_tokens
    return {
        "model_type": "whisper", "version": 1, "maintainer": "k2-fsa", **vars(model.dims),
        "is_multilingual": int(model.is_multilingual),
        "sot_sequence": join(tokenizer.sot_sequence), "sot": tokenizer.sot, "eot": tokenizer.eot,
        "sot_index": 0, "sot_prev": tokenizer.sot_prev, "sot_lm": tokenizer.sot_lm,
        "all_language_tokens": join(languages), "all_language_codes": ",".join(codes),
        "blank_id": tokenizer.encode(" ")[0], "no_speech": tokenizer.no_speech,
        "non_speech_tokens": join(tokenizer.non_speech_tokens), "transcribe": tokenizer.transcribe,
        "translate": tokenizer.translate, "no_timestamps": tokenizer.no_timestamps,
    }  # fmt: skip


def join(numbers: Any) -> str:
    return ",".join(map(str, numbers))


def add_metadata(path: Path, fields: dict[str, object]) -> None:
    import onnx

    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {name: str(value) for name, value in fields.items()})
    onnx.save(model, str(path))


@torch.no_grad()
def export(weights: Path, target: Path) -> None:
    """Writes encoder.onnx, decoder.onnx and tokens.txt from a file in openai-whisper's format."""
    model = whisper.load_model(str(weights), device="cpu").float().eval()
    tokenizer = get_tokenizer(
        model.is_multilingual, num_languages=model.num_languages, language="en", task="transcribe"
    )
    dims = model.dims
    mel = torch.zeros(1, dims.n_mels, 2 * dims.n_audio_ctx)
    encoder, decoder = Encoder(model), Decoder(model)
    with whisper.model.disable_sdpa():
        axes = {"mel": {0: "batch", 2: "frames"}, **name_axes(CROSS, {1: "batch", 2: "places"})}
        write(encoder, (mel,), target / "encoder.onnx", ["mel"], list(CROSS), axes)
        cross = encoder(mel)
    tokens = torch.tensor([[tokenizer.sot, tokenizer.sot]])
    caches = tuple(torch.zeros(dims.n_text_layer, 1, dims.n_text_ctx, dims.n_text_state) for _ in CACHES)
    inputs = ["tokens", *(f"in_{name}" for name in CACHES), *CROSS, "offset"]
    outputs = ["logits", *(f"out_{name}" for name in CACHES)]
    axes = name_axes(("tokens", "logits"), {0: "batch", 1: "new"}) | name_axes(CROSS, {1: "batch", 2: "places"})
    axes |= name_axes((*inputs[1:3], *outputs[1:]), {1: "batch"})
    write(decoder, (tokens, *caches, *cross, torch.tensor([2])), target / "decoder.onnx", inputs, outputs, axes)
    add_metadata(target / "encoder.onnx", describe(model, tokenizer))
    write_tokens(model.is_multilingual, target / "tokens.txt")


def name_axes(tensors: Iterable[str], axes: dict[int, str]) -> dict[str, dict[int, str]]:
    return dict.fromkeys(tensors, axes)


def write(module: nn.Module, inputs: tuple, path: Path, names: list[str], outputs: list[str], axes: dict) -> None:
    torch.onnx.export(
        module, inputs, str(path), input_names=names, output_names=outputs, dynamic_axes=axes, opset_version=OPSET,
        dynamo=False,
    )  # fmt: skip


def write_tokens(multilingual: bool, path: Path) -> None:
    """Each token's bytes in base64, and its number."""
    encoding = whisper.tokenizer.get_encoding("multilingual" if multilingual else "gpt2")
    ranks = sorted(encoding._mergeable_ranks.items(), key=lambda pair: pair[1])
    lines = (f"{base64.b64encode(token).decode()} {number}\n" for token, number in ranks)
    path.write_text("".join(lines), encoding="ascii")
