"""Offload: which weights are resident, when each is fetched, and that none is lost."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
import torch
from accelerate import cpu_offload_with_hook
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from labsupport.base.errors import OptimError
from labsupport.optim.offload import DiskStore, MemoryStore, Offloader, Stage

ORDER = ("first", "second", "third")


class Chain(nn.Module):
    """Three stages of different sizes, the second with a buffer and a weight that it uses twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.second.register_buffer("shift", torch.randn(16))
        self.second.register_buffer("flags", torch.tensor([True, False]))
        self.second.again = nn.Linear(16, 16)
        self.second.again.weight = self.second.weight

    def forward(self, x):
        x = self.second.forward(self.first.forward(x)) + self.second.shift
        return self.third.forward(self.second.again(x))


def stages_of(model):
    return {name: Stage(getattr(model, name), getattr(model, name), "forward") for name in ORDER}


@pytest.fixture
def chain():
    return Chain().eval()


X = torch.linspace(-1, 1, 16).reshape(2, 8)


def count_bytes(module):
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


@pytest.fixture(params=["memory", "disk", "disk, cold"])
def store(request, tmp_path):
    return MemoryStore("cpu") if request.param == "memory" else DiskStore(tmp_path, cold="cold" in request.param)


@pytest.mark.parametrize("prefetch", [False, True])
def test_the_result_is_the_same_and_remove_restores_the_model(chain, store, prefetch):
    before = {name: tensor.clone() for name, tensor in chain.state_dict().items()}
    expected = chain(X)
    offloader = Offloader(stages_of(chain), store, prefetch)
    for _ in range(2):
        assert torch.equal(chain(X), expected)
    offloader.remove()
    assert torch.equal(chain(X), expected)
    after = chain.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert chain.second.again.weight is chain.second.weight


@pytest.mark.parametrize("prefetch", [False, True])
def test_one_stage_is_resident_or_two_with_prefetch(chain, store, prefetch):
    sizes = {name: count_bytes(getattr(chain, name)) for name in ORDER}
    offloader = Offloader(stages_of(chain), store, prefetch)
    assert offloader.sizes == sizes
    assert count_bytes(chain) == 0
    chain(X)
    for name in ORDER:
        offloader.activate(name)
        assert [other for other in ORDER if count_bytes(getattr(chain, other))] == [name]
    pairs = [sizes[a] + sizes[b] for a, b in pairwise(ORDER)]
    assert max(resident for _, resident in offloader.resident) == (max(pairs) if prefetch else max(sizes.values()))
    offloader.remove()


@given(turns=st.lists(st.sampled_from(ORDER), max_size=12), prefetch=st.booleans())
def test_in_any_order_the_active_stage_has_its_weights_and_no_other(turns, prefetch):
    chain = Chain()
    weights = {name: getattr(chain, name).weight.detach().clone() for name in ORDER}
    offloader = Offloader(stages_of(chain), MemoryStore("cpu"), prefetch)
    for turn in turns:
        offloader.activate(turn)
        assert torch.equal(getattr(chain, turn).weight, weights[turn])
        assert all(getattr(chain, other).weight.numel() == 0 for other in ORDER if other != turn)
    waits = [span.stage for span in offloader.spans if span.kind == "wait"]
    assert waits == [turn for turn, last in zip(turns, [None, *turns], strict=False) if turn != last]
    offloader.remove()


def test_spans_follow_each_other(chain, store):
    offloader = Offloader(stages_of(chain), store)
    offloader.reset()
    chain(X)
    offloader.deactivate()
    turns = [span for span in offloader.spans if span.kind != "fetch"]
    assert [(span.stage, span.kind) for span in turns] == [(n, k) for n in ORDER for k in ("wait", "compute")]
    for before, after in pairwise(turns):
        assert before.end <= after.start
    assert offloader.seconds("wait") + offloader.seconds("compute") <= turns[-1].end
    offloader.remove()


class WatchedStore(MemoryStore):
    """Notes on which thread each stage was fetched, and sets an event when it is done."""

    def __init__(self):
        super().__init__("cpu")
        self.threads, self.fetched = [], {name: threading.Event() for name in ORDER}

    def fetch(self, stage):
        self.threads.append(threading.current_thread().name)
        moved = super().fetch(stage)
        self.fetched[stage].set()
        return moved


@pytest.mark.parametrize("prefetch", [False, True])
def test_prefetch_runs_beside_the_computation(chain, prefetch):
    """By the spans: a stage is fetched while the one before computes, or else while the computation waits."""
    store = WatchedStore()
    offloader = Offloader(stages_of(chain), store, prefetch)
    for name, following in pairwise((*ORDER, None)):
        offloader.activate(name)
        if prefetch and following:
            assert store.fetched[following].wait(60)
    offloader.deactivate()
    assert [thread.startswith("fetch") for thread in store.threads] == [False, prefetch, prefetch]
    spans = {(span.stage, span.kind): span for span in offloader.spans}
    for before, name in pairwise(ORDER):
        around = spans[(before, "compute") if prefetch else (name, "wait")]
        assert around.start <= spans[name, "fetch"].start <= around.end
    offloader.remove()


def test_a_failed_fetch_raises_where_it_is_awaited(chain, tmp_path):
    store = DiskStore(tmp_path)
    offloader = Offloader(stages_of(chain), store, prefetch=True)
    store.path("second").unlink()
    offloader.activate("first")
    with pytest.raises(FileNotFoundError, match="second"):
        offloader.activate("second")


def test_a_file_for_each_stage_and_no_others(chain, tmp_path):
    Offloader(stages_of(chain), DiskStore(tmp_path)).remove()
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{name}.safetensors" for name in sorted(ORDER)]


def test_stages_that_share_a_weight_are_refused(chain):
    chain.third.weight = nn.Parameter(torch.zeros(16, 16))
    chain.third.weight = chain.second.weight
    with pytest.raises(OptimError, match="also second's"):
        Offloader(stages_of(chain), MemoryStore("cpu"))
    assert count_bytes(chain.second) > 0


def test_accelerates_hooks_give_the_same_result(chain):
    hook = None
    for name in ORDER:
        _, hook = cpu_offload_with_hook(getattr(chain, name), "cpu", prev_module_hook=hook)
    ours = Chain().eval()
    offloader = Offloader(stages_of(ours), MemoryStore("cpu"))
    assert torch.equal(chain(X), ours(X))
    offloader.remove()
