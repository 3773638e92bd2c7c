"""The model that judges: equal tokens with its own parts, others with a broken one."""

import pytest

from labsupport.course import trials
from labsupport.course.exercises import Wrong
from labsupport.optim.attention import eager, sdpa
from labsupport.optim.kv_cache import PaddedCache

pytestmark = [pytest.mark.weights, pytest.mark.slow]


def test_another_attention_gives_the_same_tokens():
    assert trials.run_with(attention=eager) == f"All {len(trials.expected_tokens())} tokens of jfk are equal."
    assert len(trials.expected_tokens()) > 20


def test_a_broken_part_is_wrong_and_the_text_is_shown():
    def forgetful(q, k, v, mask=None, causal=False):
        return sdpa(q, k, 0 * v, mask=mask, causal=causal)

    with pytest.raises(Wrong, match=r"token \d+ of \d+ is another one; the text begins"):
        trials.run_with(attention=forgetful)


def test_a_part_that_the_model_never_calls_proves_nothing():
    with pytest.raises(Wrong, match="never called"):
        trials.run_with(part=trials.NumpyPart(lambda x: x), cache=PaddedCache)


def test_a_part_on_numpy_gets_arrays_and_gives_the_model_its_own():
    from labsupport.arrays import xp

    part = trials.NumpyPart(lambda x, places: x[..., :places].tolist())
    given = part(xp.asarray(trials.log_mel()[:, :2]), 3)
    assert xp.to_numpy(given).tolist() == trials.log_mel()[:, :2, :3].tolist()
    assert given.dtype == xp.asarray(trials.log_mel()).dtype
    assert part.calls == 1
    assert xp.to_numpy(trials.NumpyPart(lambda x: x > 0)(given)).dtype == bool
