"""Offload: one stage of a model at a time on the device, the others where memory is cheap.

Between its turns a stage's tensors are empty, and its weights are in a **store**: CPU memory for a GPU, files for a
CPU. Weights do not change, so they are dropped when the stage's turn ends, not copied back. With **prefetch** the next
stage is fetched while this one computes: no waiting, for the memory of two stages.

Source: article D, section 3; accelerate's `cpu_offload_with_hook`, which copies back, moves stages on their first
`forward`, and needs an accelerator.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from labsupport.base.errors import OptimError
from labsupport.base.paths import atomic_write

PAGE = 4096  # bytes


class MemoryStore:
    """CPU memory, page-locked where there is CUDA, so that copies run beside computation."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.stored: dict[str, dict[str, Tensor]] = {}
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def put(self, stage: str, tensors: dict[str, Tensor]) -> None:
        moved = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        self.stored[stage] = {name: t.pin_memory() for name, t in moved.items()} if self.stream else moved

    def fetch(self, stage: str) -> dict[str, Tensor]:
        """The stage's tensors, ready for the device to compute with; called on any thread."""
        with torch.cuda.stream(self.stream):  # does nothing where there is none
            moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in self.stored[stage].items()}
        if self.stream:
            self.stream.synchronize()
        return moved


class DiskStore:
    """A safetensors file for each stage, mapped into memory: the system may drop its pages and read them again.

    Args:
        folder: for the files; nothing else may write there meanwhile.
        cold: drop a file from the system's cache after each use (on Linux alone), so that each turn reads the disk.
    """

    def __init__(self, folder: Path, cold: bool = False) -> None:
        self.folder, self.cold = Path(folder), cold

    def path(self, stage: str) -> Path:
        return self.folder / f"{stage}.safetensors"

    def put(self, stage: str, tensors: dict[str, Tensor]) -> None:
        with atomic_write(self.path(stage)) as part:
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, part)
        self.drop_cached(stage)

    def fetch(self, stage: str) -> dict[str, Tensor]:
        with safe_open(self.path(stage), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        for tensor in tensors.values():  # a byte of each page, so that it is read now and not in the computation
            tensor.flatten().view(torch.uint8)[::PAGE].max()
        self.drop_cached(stage)
        return tensors

    def drop_cached(self, stage: str) -> None:
        """Drops the file's pages from the system's cache, but for those that are mapped now."""
        if self.cold and hasattr(os, "posix_fadvise"):
            with self.path(stage).open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True)
class Stage:
    """A part of a model with weights of its own, and the method whose call begins its turn: `owner.method`."""

    module: nn.Module
    owner: Any
    method: str


@dataclass(frozen=True)
class Span:
    """A part of the time, in seconds since `Offloader.reset`.

    kind: "fetch" (on any thread), "wait" (of the computation for a fetch) or "compute".
    """

    stage: str
    kind: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Offloader:
    """One stage's weights at a time on the device; two with `prefetch`, which fetches the next stage meanwhile.

    Args:
        stages: in the order of their turns.

    Attributes:
        spans: of time since `reset`.
        resident: (seconds, bytes of weights on the device or being fetched) at each change.

    Raises:
        OptimError: two stages share weights.
    """

    def __init__(self, stages: Mapping[str, Stage], store: MemoryStore | DiskStore, prefetch: bool = False) -> None:
        self.stages, self.store, self.prefetch = dict(stages), store, prefetch
        self.tensors = {name: named_tensors(stage.module) for name, stage in self.stages.items()}
        check_disjoint(self.tensors)
        self.current: str | None = None
        self.coming: tuple[str, Future] | None = None
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="fetch")
        self.sizes = {name: sum(t.nbytes for t in tensors.values()) for name, tensors in self.tensors.items()}
        for name, tensors in self.tensors.items():
            store.put(name, tensors)
            empty(tensors)
        self.originals = {name: self.hook(name, stage) for name, stage in self.stages.items()}
        self.reset()

    def hook(self, name: str, stage: Stage) -> Callable:
        """Makes the stage's method activate the stage first; returns the original method."""
        original = getattr(stage.owner, stage.method)

        @wraps(original)
        def activating(*args, **kwargs):
            self.activate(name)
            return original(*args, **kwargs)

        setattr(stage.owner, stage.method, activating)
        return original

    def reset(self) -> None:
        """Clears the spans and starts the clock again."""
        self.spans: list[Span] = []
        self.began, self.turn = time.perf_counter(), 0.0
        self.resident = [(0.0, self.resident_bytes())]

    def now(self) -> float:
        return time.perf_counter() - self.began

    def resident_bytes(self) -> int:
        """Bytes of the active stage and of the one that is being fetched."""
        names = {self.current, self.coming[0] if self.coming else None}
        return sum(self.sizes[name] for name in names if name is not None)

    def activate(self, name: str) -> None:
        """Begins a stage's turn, unless it is active already: drops the active one's weights, fetches this one's."""
        if name == self.current:
            return
        self.deactivate()
        start = self.now()
        fill(self.tensors[name], self.await_weights(name))
        self.current, self.turn = name, self.now()
        self.spans.append(Span(name, "wait", start, self.turn))
        following = dict(pairwise(self.stages)).get(name)
        if self.prefetch and following:
            self.coming = following, self.worker.submit(self.fetch, following)
        self.resident.append((self.now(), self.resident_bytes()))

    def deactivate(self) -> None:
        """Ends the active stage's turn and drops its weights."""
        if self.current is None:
            return
        self.spans.append(Span(self.current, "compute", self.turn, self.now()))
        empty(self.tensors[self.current])
        self.current = None
        self.resident.append((self.now(), self.resident_bytes()))

    def await_weights(self, name: str) -> dict[str, Tensor]:
        """The stage's tensors, from the running prefetch if it is of this stage."""
        coming, self.coming = self.coming, None
        if coming and coming[0] == name:
            return coming[1].result()
        if coming:
            coming[1].result()  # of another stage: wait for its end and drop it
        return self.fetch(name)

    def fetch(self, name: str) -> dict[str, Tensor]:
        start = self.now()
        tensors = self.store.fetch(name)
        self.spans.append(Span(name, "fetch", start, self.now()))
        return tensors

    def seconds(self, kind: str) -> float:
        """The sum of this kind's spans."""
        return sum(span.seconds for span in self.spans if span.kind == kind)

    def remove(self) -> None:
        """Restores the model: all weights on the device, the original methods."""
        self.deactivate()
        for name, stage in self.stages.items():
            fill(self.tensors[name], self.await_weights(name))
            setattr(stage.owner, stage.method, self.originals[name])
        self.worker.shutdown()


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def check_disjoint(tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    owners: dict[int, str] = {}
    for stage, named in tensors.items():
        for name, tensor in named.items():
            if owners.setdefault(id(tensor), stage) != stage:
                what = f"{name} of {stage} is also {owners[id(tensor)]}'s: it cannot be offloaded with either."
                raise OptimError(what, hint="Make them one stage.")


def empty(tensors: Mapping[str, Tensor]) -> None:
    """Frees the tensors' memory; dtype and device stay, for models take them from their parameters."""
    for tensor in tensors.values():
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)


def fill(tensors: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.data = numbers[name]
