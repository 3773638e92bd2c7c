"""A divided layer is the whole layer; and the traffic is counted as it happens."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labsupport.base.errors import ScalingError
from labsupport.checkpoints.config import SIZES, Config
from labsupport.scaling.process_group import run_together
from labsupport.scaling.tensor_parallel import (
    Traffic,
    compare_with_whole,
    count_decoder,
    count_encoder,
    count_weights,
    divide_layer,
    share,
)
from labsupport.whisper.torch_model import Components, EncoderLayer

SMALL = Config(d_model=24, encoder_layers=1, decoder_layers=1, heads=6)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "base"])
def test_two_processes_compute_one_layer(size):
    results = run_together(f"{compare_with_whole.__module__}:compare_with_whole", 2, size)
    expected = count_encoder(SIZES[size], 2)
    for result in results:
        assert result["difference"] < 1e-5
        assert result["largest"] > 1
        assert result["reductions"] == expected.reductions / SIZES[size].encoder_layers
        assert result["reduced"] == expected.reduced


def all_parts(layer, x, processes, spoil=lambda rank, part: part):
    """What the processes give: here threads, which wait for each other where they add up."""
    barrier, summands = threading.Barrier(processes), [None] * processes

    def run(rank):
        def all_reduce(part):
            summands[rank] = spoil(rank, part)
            barrier.wait(60)
            total = sum(summands)
            barrier.wait(60)
            return total

        with torch.inference_mode():
            return divide_layer(layer, rank, processes, all_reduce)(x)

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(run, range(processes)))


@torch.inference_mode()
@pytest.mark.parametrize("processes", [1, 2, 3, 6])
def test_any_number_of_parts_that_divides_the_heads_gives_the_whole(processes):
    torch.manual_seed(1)
    layer, x = EncoderLayer(SMALL, Components()).eval(), torch.randn(2, 7, 24)
    for output in all_parts(layer, x, processes):
        torch.testing.assert_close(output, layer(x), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_summand_that_is_missing_shows():
    torch.manual_seed(1)
    layer, x = EncoderLayer(SMALL, Components()).eval(), torch.randn(1, 7, 24)
    output = all_parts(layer, x, 2, spoil=lambda rank, part: part * (rank == 0))[0]
    assert (output - layer(x)).abs().max() > 1e-2


@pytest.mark.parametrize("processes", [4, 5, 7])
def test_heads_that_do_not_divide_evenly_are_refused(processes):
    with pytest.raises(ScalingError, match="do not divide evenly"):
        divide_layer(EncoderLayer(SMALL, Components()), 0, processes, lambda part: part)


@given(parts=st.integers(1, 20), each=st.integers(1, 20))
def test_shares_cover_everything_once(parts, each):
    taken = [number for rank in range(parts) for number in range(parts * each)[share(parts * each, rank, parts)]]
    assert taken == list(range(parts * each))


# --- traffic ----------------------------------------------------------------------------------------------------------


def test_large_by_hand():
    large = SIZES["large-v2"]
    window = count_encoder(large, 2)
    assert (window.reductions, window.reduced) == (64, 1500 * 1280 * 4)
    assert window.sent == window.total == 64 * 7_680_000  # with two processes each sends all of it once
    assert count_encoder(large, 8, size=2).sent == 2 * 7 / 8 * 64 * 3_840_000
    step = count_decoder(large, 8)
    assert (step.reductions, step.reduced) == (96, 1280 * 4)
    assert count_decoder(large, 8, tokens=4, rows=5).total == 20 * step.total
    assert count_weights(large) == 12 * 1280**2 * 4


@given(st.integers(1, 64), st.integers(1, 10**6), st.integers(1, 500))
def test_more_processes_send_more_and_one_sends_nothing(processes, reduced, reductions):
    now, more = Traffic(reductions, reduced, processes), Traffic(reductions, reduced, processes + 1)
    assert (now.sent == 0) == (processes == 1)
    assert now.sent < more.sent < 2 * now.total
    assert now.seconds(1e9, 1e-6) < more.seconds(1e9, 1e-6)
