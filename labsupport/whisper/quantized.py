"""Layers and models with quantised weights, for torch: weight-only, and integer products.

Source: Jacob et al. 2018 (integer products); Dettmers et al. 2022 (outliers kept in higher precision).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labsupport.base.errors import OptimError
from labsupport.optim.quantization import Quantized, Scheme, decode_groups, gptq_quantize, quantize, quantize_rows
from labsupport.whisper.torch_model import Words

Maker = Callable[[nn.Linear], nn.Module]  # a linear layer -> its replacement


# --- layers -----------------------------------------------------------------------------------------------------------


class QuantizedLinear(nn.Module):
    """Weight-only: codes in memory, made float32 again for every product. It saves memory, and costs time, unless
    torch.compile decodes inside of the product, which it can where the input is one row: a decode step.
    """

    def __init__(self, quantized: Quantized, bias: Tensor | None) -> None:
        super().__init__()
        self.scheme, self.shape, self.bias = quantized.scheme, quantized.shape, bias
        for name in ("codes", "scale", "zero"):
            self.register_buffer(name, getattr(quantized, name))

    @classmethod
    def of(cls, linear: nn.Linear, scheme: Scheme | None = None) -> QuantizedLinear:
        """A linear layer's replacement; int8 by channel unless a scheme is given."""
        return cls(quantize(linear.weight, scheme or Scheme()), linear.bias)

    @property
    def weight(self) -> Tensor:
        """(out, in) float32, made anew."""
        return decode_groups(self.codes, self.scale, self.zero, self.scheme, self.shape)

    def rows(self, chosen: Tensor) -> Tensor:
        """(n,) int64 -> (n, in) float32: rows of the weight."""
        scale, zero = (
            part if part is None or len(part) == 1 else part.reshape(self.shape[0], -1)[chosen].reshape(-1, 1)
            for part in (self.scale, self.zero)
        )
        return decode_groups(self.codes[chosen], scale, zero, self.scheme, (len(chosen), self.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() != x.shape[-1]:
            return F.linear(x, self.weight, self.bias)
        out = (self.weight * x.flatten()).sum(-1).view(*x.shape[:-1], -1)  # one loop when compiled: no weights written
        return out if self.bias is None else out + self.bias


class IntegerLinear(QuantizedLinear):
    """Dynamic: every row of the input gets codes of its own, and the product is one of integers.

    int8 times int8 adds up in int32 without any rounding; the two scales come in at the end. Rows and output channels
    each have one scale, for a scale can only be taken out of a sum that it is common to.

    Raises:
        OptimError: the weight's scheme is another than int8, symmetric, by channel.
    """

    def __init__(self, quantized: Quantized, bias: Tensor | None) -> None:
        if quantized.scheme != Scheme():
            raise OptimError(f"Integer products need int8, symmetric, by channel, not {quantized.scheme}.")
        super().__init__(quantized, bias)

    def forward(self, x: Tensor) -> Tensor:
        codes, scale = quantize_rows(x.flatten(0, -2))
        out = torch._int_mm(codes, self.codes.t()) * scale * self.scale.t()
        return (out if self.bias is None else out + self.bias).unflatten(0, x.shape[:-1])


class QuantizedWords(nn.Module):
    """The table of tokens in codes: rows are looked up and made float32; as the output layer it is a linear layer."""

    def __init__(self, scores: QuantizedLinear) -> None:
        super().__init__()
        self.scores = scores

    @classmethod
    def of(cls, table: nn.Embedding, make: Maker) -> QuantizedWords:
        """Replaces a table; `make` makes the output layer, whose rows are those looked up."""
        linear = nn.Linear(table.embedding_dim, table.num_embeddings, bias=False, device="meta")
        linear.weight = table.weight
        return cls(make(linear))

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) int64 -> (..., d_model) float32"""
        return self.scores.rows(tokens.flatten()).unflatten(0, tokens.shape)


# --- models -----------------------------------------------------------------------------------------------------------


def linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Name and module of every plain linear layer."""
    return ((name, module) for name, module in model.named_modules() if type(module) is nn.Linear)


def quantize_model(model: nn.Module, make: Maker, keep: Iterable[str] = (), words: Maker | None = None) -> nn.Module:
    """Replaces the linear layers of our Whisper in place; gives the model.

    Args:
        make: gives a linear layer's replacement: `IntegerLinear.of`, or `partial(QuantizedLinear.of, scheme=...)`.
        keep: names of layers that stay in float32, for example those with outliers.
        words: gives that of the table of tokens; None keeps the table in float32.
    """
    kept = set(keep)
    for name, linear in list(linears(model)):
        if name not in kept:
            model.set_submodule(name, make(linear))
    if words:
        model.decoder.embed_tokens = QuantizedWords.of(model.decoder.embed_tokens, words)
    return model


def quantize_by_side(model: nn.Module) -> nn.Module:
    """Integer products in the encoder, where arithmetic counts and little is lost; int8 weights in the decoder."""
    quantize_model(model.encoder, IntegerLinear.of)
    return quantize_model(model, QuantizedLinear.of, words=QuantizedLinear.of)


def decode_model(model: nn.Module) -> nn.Module:
    """Makes weight-only layers plain again, in place, with the numbers that their codes stand for; gives the model.

    For judging a text: it stays the same, and no weight is decoded twice.
    """
    for name, layer in list(model.named_modules()):
        if type(layer) is QuantizedLinear and layer is not getattr(model.decoder.embed_tokens, "scores", None):
            linear = nn.Linear(layer.shape[1], layer.shape[0], device="meta")
            linear.weight, linear.bias = nn.Parameter(layer.weight, requires_grad=False), layer.bias
            model.set_submodule(name, linear)
    words = model.decoder.embed_tokens
    if isinstance(words, QuantizedWords) and type(words.scores) is QuantizedLinear:
        model.decoder.embed_tokens = Words.from_pretrained(words.scores.weight)
    return model


@torch.inference_mode()
def layer_errors(model: nn.Module, run: Callable[[], object], make: Maker) -> dict[str, float]:
    """How wrong each linear layer's output becomes on its own input: name -> relative error, largest first.

    Args:
        run: does some work with the model, on which the layers are judged: an encoding, a few decode steps.
    """
    squares: dict[str, list[float]] = {}

    def judge(name: str, replacement: nn.Module) -> Callable:
        def hook(_module, inputs, output):
            wrong = replacement(*inputs) - output
            sums = squares.setdefault(name, [0.0, 0.0])
            sums[0] += wrong.square().sum().item()
            sums[1] += output.square().sum().item()

        return hook

    hooks = [linear.register_forward_hook(judge(name, make(linear))) for name, linear in linears(model)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    errors = {name: math.sqrt(wrong / max(all_, 1e-30)) for name, (wrong, all_) in squares.items()}
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


INT4 = {size: partial(QuantizedLinear.of, scheme=Scheme(4, size)) for size in ("channel", 128, 64, 32)}
WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {  # name -> what does it to a model of ours, in place
    "int8 weights": partial(quantize_model, make=QuantizedLinear.of, words=QuantizedLinear.of),
    "int8 weights, tokens in groups of 64": partial(
        quantize_model, make=QuantizedLinear.of, words=partial(QuantizedLinear.of, scheme=Scheme(8, 64))
    ),
    "int8 integers": partial(quantize_model, make=IntegerLinear.of, words=IntegerLinear.of),
    "int8 integers, weights in the decoder": quantize_by_side,
    **{
        f"int4 weights, {size if size == 'channel' else f'groups of {size}'}": partial(
            quantize_model, make=make, words=QuantizedLinear.of
        )
        for size, make in INT4.items()
    },
}


# --- rounding with correction -----------------------------------------------------------------------------------------


@torch.inference_mode()
def record_inputs(model: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    """What `gptq_quantize` needs of linear layers' inputs: name -> (in, in) float32 sum of their outer products."""
    sums: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable:
        def hook(_module, inputs):
            rows = inputs[0].flatten(0, -2)
            sums[name] = sums.get(name, 0) + rows.T @ rows

        return hook

    hooks = [linear.register_forward_pre_hook(hook_for(name)) for name, linear in linears(model)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def corrected(model: nn.Module, products: dict[str, Tensor], scheme: Scheme, damping: float = 1.0) -> Maker:
    """For `quantize_model`: rounds every linear layer of this model with `gptq_quantize`, by its own inputs.

    Args:
        products: from `record_inputs` on the same model.
        damping: see `gptq_quantize`.
    """
    own = {linear: products[name] for name, linear in linears(model)}
    return lambda linear: QuantizedLinear(gptq_quantize(linear.weight, own[linear], scheme, damping), linear.bias)
