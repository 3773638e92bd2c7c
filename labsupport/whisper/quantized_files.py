"""Quantised models in safetensors files: saved with a description of their layers, loaded with everything checked."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import cast

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from labsupport.base.errors import CheckpointError, OptimError
from labsupport.base.paths import atomic_write
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.settings import to_config
from labsupport.optim.quantization import QuantizedTensor, Scheme
from labsupport.whisper.quantized import IntegerLinear, QuantizedEmbedding, QuantizedLinear
from labsupport.whisper.torch_model import Whisper

FORMAT = "speech-inference-lab quantised 2"  # its number changes with the names of tensors
EMBEDDING = "decoder.embed_tokens.linear"
UNFIT = (  # what a description raises that is none; RuntimeError is torch's, and Python's for JSON that is too deep
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, OptimError, CheckpointError,
)  # fmt: skip
KINDS: dict[str, type[QuantizedLinear]] = {"weight-only": QuantizedLinear, "integer": IntegerLinear}


def save(model: Whisper, path: Path, rest: str = "float16") -> None:
    """Writes a quantised model; what has no codes (convolutions, positions, norms, biases) gets the dtype `rest`."""
    tensors = {name: to_stored(name, tensor, getattr(torch, rest)) for name, tensor in model.state_dict().items()}
    layers = {name: describe(layer) for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}
    metadata = {"format": FORMAT, "config": json.dumps(model.config.to_hf()), "layers": json.dumps(layers)}
    with atomic_write(Path(path)) as part:
        save_file(tensors, part, metadata)


def to_stored(name: str, tensor: Tensor, rest: torch.dtype) -> Tensor:
    """Codes and zero points as they are, scales in float32, all else in `rest`; in one piece."""
    exact = name.endswith((".codes", ".scale", ".zero")) or not tensor.is_floating_point()
    return (tensor if exact else tensor.to(rest)).contiguous()


def describe(layer: QuantizedLinear) -> dict:
    kind = next(name for name, known in KINDS.items() if type(layer) is known)
    return {"kind": kind, **asdict(layer.scheme)}


def load(path: Path) -> Whisper:
    """Reads a file that `save` wrote, or raises OptimError; what has no codes becomes float32 again."""
    path = Path(path)
    metadata, tensors = read(path)
    try:
        config = to_config(json.loads(metadata["config"]), path)
        model = build(config, json.loads(metadata["layers"]))
    except UNFIT as error:
        raise OptimError(f"The description fits no Whisper: {error!r}.", where=path) from error
    check(model.state_dict(), tensors, path)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The file's description, and its tensors, those of half precision widened to float32."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, OSError) as error:
        raise OptimError(f"The file is missing, damaged or cut short: {error}.", where=path) from error
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "no such entry")
        raise OptimError(f"This is no quantised model: {found}, not {FORMAT!r}.", where=path)
    halves = (torch.float16, torch.bfloat16)
    return metadata, {name: t.float() if t.dtype in halves else t for name, t in tensors.items()}


def build(config: Config, layers: dict[str, dict]) -> Whisper:
    """A Whisper on torch's meta device, with quantised layers where the description has them."""
    with torch.device("meta"):
        model = Whisper(config)
        for name, description in layers.items():
            scheme = Scheme(**{key: value for key, value in description.items() if key != "kind"})
            make = KINDS[description["kind"]]
            if name == EMBEDDING:
                table = make(empty(config.vocab_size, config.d_model, scheme), None)
                model.decoder.set_submodule("embed_tokens", QuantizedEmbedding(table))
            else:
                linear = cast(nn.Linear, model.get_submodule(name))
                model.set_submodule(name, make(empty(linear.out_features, linear.in_features, scheme), linear.bias))
    return model


def empty(rows: int, columns: int, scheme: Scheme) -> QuantizedTensor:
    """A quantised matrix of this shape, to be filled."""
    groups = rows * columns // scheme.group_size(columns, rows)
    packed = scheme.bits == 4
    codes = torch.empty(rows, columns // 2 if packed else columns, dtype=torch.uint8 if packed else torch.int8)
    zero = None if scheme.symmetric else torch.empty(groups, 1)
    return QuantizedTensor(codes, torch.empty(groups, 1), zero, scheme, (rows, columns))


def check(expected: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    """Raises OptimError unless the tensors are those expected, in shape and dtype."""
    if missing := expected.keys() - found.keys():
        raise OptimError(f"{len(missing)} tensors are missing, {min(missing)} among them.", where=path)
    if superfluous := found.keys() - expected.keys():
        raise OptimError(f"{len(superfluous)} tensors too many, {min(superfluous)} among them.", where=path)
    for name, tensor in found.items():
        wanted = expected[name]
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            what = f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {wanted.dtype} {tuple(wanted.shape)}."
            raise OptimError(what, where=path)
