"""The decoder's graph appends to cross-attention what must be hidden; `test_model` compares what it computes."""

from __future__ import annotations

import numpy as np
from exact_engine import exact_graphs, exact_model
from small_model import prefill_in_pieces, start_cache
from small_whisper import SMALL

from labsupport.engine.decoder import INPUTS

TEXT = np.array([[7, 1, 90, 13]])


def test_nothing_hidden_the_appended_zeros_take_part(monkeypatch):
    """The planted fault."""
    model = exact_model(SMALL)
    encoded = model.encode(np.random.default_rng(0).normal(size=(1, 80, 60)).astype(np.float32))
    pieces = [prefill_in_pieces(model, start_cache(model, encoded), TEXT, cuts) for cuts in ([3, 1], [1] * 4)]
    np.testing.assert_allclose(*pieces, atol=1e-5)
    monkeypatch.setattr("labsupport.engine.model.HIDDEN", np.float32(0))
    found = prefill_in_pieces(model, start_cache(model, encoded), TEXT, [1] * 4)
    assert np.abs(found - pieces[0]).max() > 1e-4


def test_the_graph_holds_four_variables_a_layer_and_takes_what_the_cache_gives():
    decoder = exact_graphs(SMALL)["decoder"]
    names = {state.name for state in decoder.create_infer_request().query_state()}
    parts = ("k", "v", "cross_k", "cross_v")
    assert names == {f"decoder.layers.{layer}.{part}" for layer in range(2) for part in parts}
    assert [given.get_node().friendly_name for given in decoder.inputs] == list(INPUTS)
