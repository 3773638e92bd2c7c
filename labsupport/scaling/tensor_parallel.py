"""Tensor parallel: one layer's matrices divided between processes, and what they must send each other for it.

Shoeybi et al. 2019 (Megatron-LM), section 3: the first matrix of each pair is divided by columns, the second by rows.
Between the two nothing is sent; after the second each process holds a summand of the output, and an all-reduce adds
them up. An encoder layer has two such pairs (attention, feed-forward), a decoder layer three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labsupport.base.errors import ScalingError
from labsupport.checkpoints.config import Config

if TYPE_CHECKING:
    from torch import Tensor

    from labsupport.whisper.torch_model import EncoderLayer

ENCODER_REDUCTIONS, DECODER_REDUCTIONS = 2, 3  # all-reduces of a layer


@dataclass(frozen=True)
class Traffic:
    """What a forward pass sends.

    reductions: how many all-reduces follow one another.
    reduced: bytes of each; all of them have the shape of the hidden states.
    processes: which take part.
    """

    reductions: int
    reduced: int
    processes: int

    @property
    def total(self) -> int:
        """Bytes that are added up in all."""
        return self.reductions * self.reduced

    @property
    def sent(self) -> float:
        """Bytes that each process sends, by a ring: 2 (n - 1) / n of what is added up."""
        return 2 * (self.processes - 1) / self.processes * self.total

    def seconds(self, bandwidth: float, latency: float) -> float:
        """A lower bound of the time.

        Args:
            bandwidth: bytes a second that a process sends while it receives as many.
            latency: seconds of a message; a ring takes 2 (n - 1) of them for each all-reduce.
        """
        return self.sent / bandwidth + self.reductions * 2 * (self.processes - 1) * latency


def count_encoder(config: Config, processes: int, windows: int = 1, size: int = 4) -> Traffic:
    """The encoder's pass over windows of 30 s; size: bytes of a number."""
    hidden = windows * config.audio_positions * config.d_model * size
    return Traffic(ENCODER_REDUCTIONS * config.encoder_layers, hidden, processes)


def count_decoder(config: Config, processes: int, tokens: int = 1, rows: int = 1, size: int = 4) -> Traffic:
    """A step of the decoder: tokens=1; or the prefill of a prompt of so many, for each of the rows."""
    return Traffic(DECODER_REDUCTIONS * config.decoder_layers, rows * tokens * config.d_model * size, processes)


def count_weights(config: Config, size: int = 4) -> int:
    """Bytes of an encoder layer's matrices, which tensor parallelism divides."""
    return (4 * config.d_model**2 + 2 * config.d_model * config.ffn_dim) * size


def share(length: int, rank: int, processes: int) -> slice:
    """The rows or columns of one process; ScalingError where they do not divide evenly."""
    if length % processes or not 0 <= rank < processes:
        raise ScalingError(f"{length} do not divide evenly.", where=f"rank {rank} of {processes}")
    return slice(rank * length // processes, (rank + 1) * length // processes)


def divide_layer(
    layer: EncoderLayer, rank: int, processes: int, all_reduce: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """One process's part of an encoder layer: (batch, frames, d_model) -> the whole layer's output, the same.

    Args:
        all_reduce: adds up a tensor over the processes.

    Raises:
        ScalingError: heads or columns do not divide evenly by the processes.
    """
    import torch.nn.functional as F

    attention = layer.self_attn
    share(attention.heads, rank, processes)  # whole heads
    columns = share(attention.q_proj.out_features, rank, processes)
    inner = share(layer.fc1.out_features, rank, processes)
    heads = attention.heads // processes

    def project(name: str, x: Tensor) -> Tensor:
        linear = getattr(attention, name)
        bias = None if linear.bias is None else linear.bias[columns]
        return F.linear(x, linear.weight[columns], bias).unflatten(-1, (heads, -1)).transpose(1, 2)

    def forward(x: Tensor) -> Tensor:
        h = layer.self_attn_layer_norm(x)  # (batch, frames, d_model), in each process
        q, k, v = (project(name, h) for name in ("q_proj", "k_proj", "v_proj"))  # (batch, heads / n, frames, head_dim)
        out = attention.attention(q, k, v).transpose(1, 2).flatten(2)  # (batch, frames, d_model / n)
        x = x + all_reduce(F.linear(out, attention.out_proj.weight[:, columns])) + attention.out_proj.bias
        h = F.gelu(F.linear(layer.final_layer_norm(x), layer.fc1.weight[inner], layer.fc1.bias[inner]))
        return x + all_reduce(F.linear(h, layer.fc2.weight[:, inner])) + layer.fc2.bias  # h: (batch, frames, ffn / n)

    return forward


def compare_with_whole(size: str, seed: int = 0) -> dict[str, float]:
    """In one of the processes of `run_together`: a random layer of this size, divided and whole, on random frames.

    Returns:
        The largest difference, the largest output, and the all-reduces and bytes of each that were counted.
    """
    import torch
    import torch.distributed as dist

    from labsupport.checkpoints.config import SIZES
    from labsupport.whisper.torch_model import Components, EncoderLayer

    torch.manual_seed(seed)  # the same in each process
    config, reduced = SIZES[size], list[int]()
    layer = EncoderLayer(config, Components()).eval()
    x = torch.randn(1, config.audio_positions, config.d_model)

    def all_reduce(part: Tensor) -> Tensor:
        reduced.append(part.nbytes)
        dist.all_reduce(part)
        return part

    with torch.inference_mode():
        divided = divide_layer(layer, dist.get_rank(), dist.get_world_size(), all_reduce)(x)
        whole = layer(x)
    return {
        "difference": (divided - whole).abs().max().item(), "largest": whole.abs().max().item(),
        "reductions": len(reduced), "reduced": max(reduced),
    }  # fmt: skip
