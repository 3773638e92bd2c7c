"""The frame that every pass stands in."""

from __future__ import annotations

import pytest
from small_graphs import product

from labsupport.base.errors import GraphError
from labsupport.graphs.passes.rewriting import rewriting


def test_a_pass_copies_its_argument_and_checks_its_result():
    @rewriting
    def nothing(model) -> bool:
        return False

    @rewriting
    def wrong(model) -> bool:
        model.graph.node(0).op_type = "Softmax"  # which takes one input, not two
        return True

    model = product()
    assert nothing(model) is not model
    assert nothing(model).SerializeToString() == model.SerializeToString()
    with pytest.raises(GraphError, match="contradicts itself"):
        wrong(model)
    assert model.SerializeToString() == product().SerializeToString()
