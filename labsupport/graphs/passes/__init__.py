"""Article B's four graph rewrites, each a function ONNX model -> ONNX model that leaves its argument as it is.

    model = whisper_graphs.decoder_step(checkpoint)
    fast = run_all(model)                                  # all four
    half = run_all(model, ["tile_to_broadcast"])           # or one
    read_interface(fast)                                   # the form of its caches now

Names of inputs and outputs stay. The form of the caches changes, which the caller reads with `read_interface`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx

from labsupport.base.errors import GraphError
from labsupport.graphs.passes.cache import cache_to_static, fuse_slice_concat
from labsupport.graphs.passes.permutes import eliminate_permutes
from labsupport.graphs.passes.tile import tile_to_broadcast

__all__ = ["PASSES", "cache_to_static", "eliminate_permutes", "fuse_slice_concat", "run_all", "tile_to_broadcast"]

# In the article's order. Where the past grows, every order gives the same numbers, but fuse_slice_concat finds nothing
# to fuse before cache_to_static has made a Slice. Where the past has a fixed length, cache_to_static must come before
# eliminate_permutes: after it, it raises GraphError.
PASSES: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "tile_to_broadcast": tile_to_broadcast,
    "cache_to_static": cache_to_static,
    "eliminate_permutes": eliminate_permutes,
    "fuse_slice_concat": fuse_slice_concat,
}


def run_all(model: onnx.ModelProto, passes: Iterable[str] = PASSES) -> onnx.ModelProto:
    """The model after these passes, one after the other; GraphError if there is no such pass."""
    for name in passes:
        if name not in PASSES:
            raise GraphError(f"There is no pass {name!r}.", hint=f"There are {', '.join(PASSES)}.")
        model = PASSES[name](model)
    return model
