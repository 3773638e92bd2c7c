"""What machines cost: against sums by hand, and against what must hold for any prices."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labsupport.base.errors import ScalingError
from labsupport.scaling.cost import (
    Machine,
    break_even_hours,
    break_even_speed,
    compare_bills,
    find_bill,
    model_parallel_price,
    price_when_busy,
    spot_price,
)

SLOW, FAST = Machine("cpu", rtf=0.1, price=0.2), Machine("gpu", rtf=0.01, price=1.0)
RTFS, PRICES, HOURS = st.floats(1e-3, 3), st.floats(0.01, 50), st.floats(0.1, 1e5)


def test_a_bill_by_hand():
    bill = find_bill(SLOW, 1000, utilisation=0.5)  # 100 hours of work; a machine may work 12 a day
    assert (bill.machines, bill.a_day) == (9, pytest.approx(9 * 24 * 0.2))
    assert bill.an_hour == pytest.approx(9 * 24 * 0.2 / 1000)
    assert bill.used == pytest.approx(100 / (9 * 24))


def test_a_full_machine_is_one_and_not_two():
    assert find_bill(SLOW, 240, utilisation=1.0).machines == 1
    assert find_bill(SLOW, 24 * 0.7 / 0.1, utilisation=0.7).machines == 1  # which floating point does not divide evenly
    assert find_bill(SLOW, 241, utilisation=1.0).machines == 2


@given(rtf=RTFS, price=PRICES, hours=HOURS, utilisation=st.floats(0.05, 1))
def test_machines_are_as_few_as_the_utilisation_allows(rtf, price, hours, utilisation):
    machine = Machine("m", rtf, price)
    bill = find_bill(machine, hours, utilisation)
    assert bill.used <= utilisation * (1 + 1e-6)
    if bill.machines > 1:
        assert hours * rtf / ((bill.machines - 1) * 24) > utilisation * (1 - 1e-6)
    assert bill.an_hour >= price_when_busy(machine) * (1 - 1e-9)
    assert bill.an_hour == pytest.approx(price_when_busy(machine) / bill.used)


@given(price=PRICES, audio_price=st.floats(0.001, 5), rtf=RTFS)
def test_at_the_break_even_one_machine_costs_what_the_hours_cost(price, audio_price, rtf):
    machine = Machine("m", rtf, price)
    hours = break_even_hours(machine, audio_price)
    if math.isinf(hours):
        assert price_when_busy(machine) > audio_price * (1 - 1e-9)
    else:
        assert 24 * price == pytest.approx(hours * audio_price)


def test_a_dear_machine_pays_where_it_is_faster_by_more_than_it_is_dearer():
    assert break_even_speed(SLOW, FAST) == pytest.approx(5)
    just = Machine("just", SLOW.rtf / 5, FAST.price)
    assert price_when_busy(just) == pytest.approx(price_when_busy(SLOW))
    assert list(compare_bills([SLOW, FAST], 10_000)) == ["gpu", "cpu"]
    assert list(compare_bills([SLOW, FAST], 1)) == ["cpu", "gpu"]  # one machine of each: only its price counts


def test_seventy_per_cent_off_is_less_off_where_work_is_lost():
    assert spot_price(10, 0.7, 0, 1) == pytest.approx(3)
    assert spot_price(10, 0.7, 0.5, 0.2) == pytest.approx(3 / 0.9)
    saved = 1 - spot_price(1, 0.7, 0.1, 1.0)
    assert 0.66 < saved < 0.7


@given(cards=st.integers(1, 16), efficiency=st.floats(0.05, 1), price=PRICES, rtf=RTFS)
def test_a_shared_model_is_never_cheaper_than_one_on_each_card(cards, efficiency, price, rtf):
    ratio = model_parallel_price(Machine("card", rtf, price), cards, efficiency)
    assert ratio == pytest.approx(1 / efficiency)
    assert ratio >= 1 - 1e-9


@pytest.mark.parametrize(
    "call",
    [
        lambda: Machine("m", 0, 1),
        lambda: Machine("m", math.nan, 1),
        lambda: Machine("m", 1, -1),
        lambda: Machine("m", 1, math.inf),
        lambda: find_bill(SLOW, 0),
        lambda: find_bill(SLOW, 10, utilisation=0),
        lambda: find_bill(SLOW, 10, utilisation=1.1),
        lambda: find_bill(SLOW, 1e12),
        lambda: break_even_hours(SLOW, 0),
        lambda: break_even_speed(Machine("free", 1, 0), FAST),
        lambda: spot_price(1, 1.2, 0, 0),
        lambda: spot_price(1, 0.7, 2, 1),
        lambda: spot_price(1, 0.7, -1, 1),
        lambda: model_parallel_price(SLOW, 0, 1),
        lambda: model_parallel_price(SLOW, 8, 1.5),
    ],
)
def test_what_cannot_be_is_refused(call):
    with pytest.raises(ScalingError):
        call()
