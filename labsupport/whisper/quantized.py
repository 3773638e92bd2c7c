"""Layers and models with quantised weights, for torch: weight-only, and integer products.

Source: Jacob et al. 2018 (integer products); Dettmers et al. 2022 (outliers kept in higher precision).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labsupport.base.errors import OptimError
from labsupport.optim import quantization
from labsupport.optim.quantization import QuantizedTensor, Scheme, dequantize_groups
from labsupport.whisper.torch_model import TokenEmbedding, Whisper

# --- layers -----------------------------------------------------------------------------------------------------------


class QuantizedLinear(nn.Module):
    """Weight-only: codes in memory, made float32 again for every product. It saves memory, and costs time, unless
    torch.compile dequantises inside of the product, which it can where the input is one row: a decode step.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None

    def __init__(self, quantized: QuantizedTensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.scheme, self.shape, self.bias = quantized.scheme, quantized.shape, bias
        for name in ("codes", "scale", "zero"):
            self.register_buffer(name, getattr(quantized, name))

    @classmethod
    def of(cls, linear: nn.Linear, scheme: Scheme | None = None) -> QuantizedLinear:
        """A linear layer's replacement; int8 by channel unless a scheme is given."""
        return cls(quantization.quantize(linear.weight, scheme or Scheme()), linear.bias)

    @property
    def weight(self) -> Tensor:
        """(out, in) float32, dequantised at each access"""
        return dequantize_groups(self.codes, self.scale, self.zero, self.scheme, self.shape)

    def rows(self, chosen: Tensor) -> Tensor:
        """(n,) int64 -> (n, in) float32: rows of the weight."""

        def of_rows(part: Tensor) -> Tensor:  # (groups, 1) -> (n * groups of a row, 1); one group stays one
            return part if len(part) == 1 else part.reshape(self.shape[0], -1)[chosen].reshape(-1, 1)

        scale, zero = of_rows(self.scale), None if self.zero is None else of_rows(self.zero)
        return dequantize_groups(self.codes[chosen], scale, zero, self.scheme, (len(chosen), self.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        if x.numel() != x.shape[-1]:
            return F.linear(x, self.weight, self.bias)
        # one row: a single loop when compiled, which never writes the float32 weight
        out = (self.weight * x.flatten()).sum(-1).view(*x.shape[:-1], -1)  # (..., out)
        return out if self.bias is None else out + self.bias


class IntegerLinear(QuantizedLinear):
    """Dynamic: every row of the input is quantised too, and the product is one of integers.

    int8 times int8 adds up in int32 without any rounding; the two scales are applied at the end. That takes one scale
    for each row and each output channel: a scale can only be taken out of a sum that it is common to.
    """

    def __init__(self, quantized: QuantizedTensor, bias: nn.Parameter | None) -> None:
        if quantized.scheme != Scheme():
            raise OptimError(f"Integer products need int8, symmetric, by channel, not {quantized.scheme}.")
        super().__init__(quantized, bias)

    def forward(self, x: Tensor) -> Tensor:
        codes, scale = quantization.quantize_rows(x.flatten(0, -2))  # (rows, in), (rows, 1)
        out = torch._int_mm(codes, self.codes.t()) * scale * self.scale.t()  # (rows, out)
        return (out if self.bias is None else out + self.bias).unflatten(0, x.shape[:-1])  # (..., out)


LinearFactory = Callable[[nn.Linear], QuantizedLinear]  # a linear layer -> its replacement


class QuantizedEmbedding(nn.Module):
    """The quantised token embedding: rows are looked up and dequantised; as the output layer it is a linear layer."""

    def __init__(self, linear: QuantizedLinear) -> None:
        super().__init__()
        self.linear = linear

    @classmethod
    def of(cls, table: nn.Embedding, make: LinearFactory) -> QuantizedEmbedding:
        """Replaces a table; `make` makes the output layer, whose rows are those looked up."""
        linear = nn.Linear(table.embedding_dim, table.num_embeddings, bias=False, device="meta")
        linear.weight = table.weight
        return cls(make(linear))

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) int64 -> (..., d_model) float32"""
        return self.linear.rows(tokens.flatten()).unflatten(0, tokens.shape)  # (..., d_model)

    def logits(self, x: Tensor) -> Tensor:
        """(..., d_model) -> (..., vocab)"""
        return self.linear(x)


# --- models -----------------------------------------------------------------------------------------------------------


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Name and module of every plain linear layer."""
    return ((name, module) for name, module in model.named_modules() if type(module) is nn.Linear)


def quantize_linears(model: nn.Module, make: LinearFactory, skip: Collection[str] = ()) -> None:
    """Replaces plain linear layers in place, but those named in `skip`."""
    for name, linear in list(linear_layers(model)):
        if name not in skip:
            model.set_submodule(name, make(linear))


def quantize_model(
    model: Whisper, make: LinearFactory, skip: Collection[str] = (), embedding: LinearFactory | None = None
) -> Whisper:
    """Quantises our Whisper in place, and returns it: its linear layers by `make`, the token embedding by `embedding`.

    What is named in `skip` stays in float32 (layers with outliers), and so does the embedding where there is None.
    """
    quantize_linears(model, make, skip)
    if embedding:
        model.decoder.set_submodule("embed_tokens", QuantizedEmbedding.of(model.decoder.embed_tokens, embedding))
    return model


def quantize_by_side(model: Whisper) -> Whisper:
    """Integer products in the encoder, where arithmetic counts and little is lost; int8 weights in the decoder."""
    quantize_linears(model.encoder, IntegerLinear.of)
    return quantize_model(model, QuantizedLinear.of, embedding=QuantizedLinear.of)


def dequantize_model(model: Whisper) -> Whisper:
    """Makes weight-only layers plain again, in place, with the numbers that their codes stand for; returns the model.

    For word error rates: the text is the same, and no weight is dequantised twice.
    """
    table = model.decoder.embed_tokens
    if isinstance(table, QuantizedEmbedding) and type(table.linear) is QuantizedLinear:
        model.decoder.embed_tokens = TokenEmbedding.from_pretrained(table.linear.weight)
    for name, layer in list(model.named_modules()):
        if type(layer) is QuantizedLinear:
            linear = nn.Linear(layer.shape[1], layer.shape[0], device="meta")
            linear.weight = nn.Parameter(layer.weight, requires_grad=False)
            linear.register_parameter("bias", layer.bias)
            model.set_submodule(name, linear)
    return model


INT8 = QuantizedLinear.of
INT8_GROUPS = partial(INT8, scheme=Scheme(8, 64))
INT4 = {size: partial(QuantizedLinear.of, scheme=Scheme(4, size)) for size in ("channel", 128, 64, 32)}
RECIPES: dict[str, Callable[[Whisper], Whisper]] = {  # name -> what quantises a model of ours in place
    "int8 weights": partial(quantize_model, make=INT8, embedding=INT8),
    "int8 weights, tokens in groups of 64": partial(quantize_model, make=INT8, embedding=INT8_GROUPS),
    "int8 integers": partial(quantize_model, make=IntegerLinear.of, embedding=IntegerLinear.of),
    "int8 integers, weights in the decoder": quantize_by_side,
    **{
        f"int4 weights, {size if size == 'channel' else f'groups of {size}'}": partial(
            quantize_model, make=make, embedding=INT8
        )
        for size, make in INT4.items()
    },
}


# --- layers on real inputs --------------------------------------------------------------------------------------------


@contextmanager
def hook_linears(model: nn.Module, hook: Callable[[str, nn.Linear, Tensor, Tensor], None]) -> Iterator[None]:
    """Calls hook(name, layer, input, output) whenever a plain linear layer has run inside the block."""
    handles = [
        layer.register_forward_hook(lambda layer, inputs, output, name=name: hook(name, layer, inputs[0], output))
        for name, layer in linear_layers(model)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def layer_errors(model: nn.Module, run: Callable[[], object], make: LinearFactory) -> dict[str, float]:
    """How wrong each linear layer's output becomes on its own input, while `run` does some work with the model (an
    encoding, a few decode steps): name -> relative error, largest first.
    """
    replacements = {name: make(linear) for name, linear in linear_layers(model)}
    squares = {name: [0.0, 0.0] for name in replacements}  # of the differences, of the exact outputs

    def compare(name: str, _layer: nn.Linear, x: Tensor, output: Tensor) -> None:
        squares[name][0] += (replacements[name](x) - output).square().sum().item()
        squares[name][1] += output.square().sum().item()

    with hook_linears(model, compare):
        run()
    errors = {name: math.sqrt(wrong / max(exact, 1e-30)) for name, (wrong, exact) in squares.items()}
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


@torch.inference_mode()
def record_hessians(model: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    """What `gptq_quantize` needs of linear layers' inputs: name -> (in, in) float32 sum of their outer products."""
    hessians: dict[str, Tensor] = {}

    def add(name: str, _layer: nn.Linear, x: Tensor, _output: Tensor) -> None:
        rows = x.flatten(0, -2)  # (rows, in)
        hessians[name] = hessians.get(name, torch.zeros(())) + rows.T @ rows  # (in, in)

    with hook_linears(model, add):
        run()
    return hessians


def gptq_factory(model: nn.Module, hessians: dict[str, Tensor], scheme: Scheme, damping: float = 1.0) -> LinearFactory:
    """For `quantize_model`: `gptq_quantize` for this very model's layers, with `record_hessians` of it."""
    by_layer = {linear: hessians[name] for name, linear in linear_layers(model)}
    gptq = partial(quantization.gptq_quantize, scheme=scheme, damping=damping)
    return lambda linear: QuantizedLinear(gptq(linear.weight, by_layer[linear]), linear.bias)
