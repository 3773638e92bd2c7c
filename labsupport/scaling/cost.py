"""What so many hours of audio a day take: machines, money, and how many workers keep the wait short.

Prices are always the caller's: they differ by place and month, and nothing here can know them. The real-time factor
(RTF) is a machine's seconds of work for a second of audio, measured with all of its workers at work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labsupport.base.errors import ScalingError

DAY = 24.0  # hours
MOST_MACHINES = 1_000_000


@dataclass(frozen=True)
class Machine:
    """What is rented.

    rtf: seconds of work for a second of audio, of the whole machine.
    price: for an hour, in the currency of the caller's choice.
    """

    name: str
    rtf: float
    price: float

    def __post_init__(self) -> None:
        check_positive("rtf", self.rtf)
        if not (math.isfinite(self.price) and self.price >= 0):
            raise ScalingError("A price is a number from 0 on.", where=f"price={self.price!r}")


@dataclass(frozen=True)
class Bill:
    """machines: to have all day; a_day: their price; an_hour: price of an hour of audio; used: part of their time."""

    machines: int
    a_day: float
    an_hour: float
    used: float


def check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ScalingError(f"{name} is a number above 0.", where=f"{name}={value!r}")


def find_bill(machine: Machine, hours: float, utilisation: float = 0.7) -> Bill:
    """What `hours` of audio a day take, on machines that are rented all day.

    Args:
        utilisation: which part of a machine's time may be work; the rest is room for the peaks of a day.

    Raises:
        ScalingError: a number that cannot be one of these, or more than a million machines.
    """
    check_positive("hours", hours)
    if not 0 < utilisation <= 1:
        raise ScalingError("A utilisation is a part: above 0, at most 1.", where=f"utilisation={utilisation!r}")
    work = hours * machine.rtf  # machine hours a day
    needed = work / (DAY * utilisation)
    if needed > MOST_MACHINES:
        raise ScalingError("That takes more than a million machines.", where=f"hours={hours!r}, rtf={machine.rtf!r}")
    machines = max(1, math.ceil(needed - 1e-9))  # what rounding adds is no machine
    a_day = machines * DAY * machine.price
    return Bill(machines, a_day, a_day / hours, work / (machines * DAY))


def price_when_busy(machine: Machine) -> float:
    """The price of an hour of audio while the machine always works, and no longer: the least that it can be."""
    return machine.rtf * machine.price


def break_even_hours(machine: Machine, price: float) -> float:
    """From how many hours of audio a day on one machine, rented all day, is no dearer than `price` an hour of audio.

    Infinite where the machine cannot do that many in a day.
    """
    check_positive("price", price)
    hours = DAY * machine.price / price
    return hours if hours * machine.rtf <= DAY else math.inf


def break_even_speed(cheap: Machine, dear: Machine) -> float:
    """How many times as fast as `cheap` must `dear` be, before an hour of audio costs the same on both, always busy?

    Raises:
        ScalingError: the cheap one costs nothing.
    """
    check_positive("price", cheap.price)
    return dear.price / cheap.price


def spot_price(price: float, discount: float, interruptions: float, lost: float) -> float:
    """The price of an hour of useful work on a machine that may be taken away.

    Args:
        discount: off the price, from 0 to 1: article C's 70 % is 0.7.
        interruptions: for each hour of running, on average.
        lost: hours of work done again and of starting up, for each interruption.

    Raises:
        ScalingError: so much is lost that nothing gets done.
    """
    if not 0 <= discount <= 1:
        raise ScalingError("A discount is a part: from 0 to 1.", where=f"discount={discount!r}")
    useful = 1 - interruptions * lost  # of an hour
    if interruptions < 0 or lost < 0 or useful <= 0:
        where = f"interruptions={interruptions!r}, lost={lost!r}"
        raise ScalingError("Nothing gets done: each hour loses an hour or more.", where=where)
    return price * (1 - discount) / useful


def model_parallel_price(machine: Machine, cards: int, efficiency: float) -> float:
    """The price of an hour of audio on `cards` cards that share one model, against a model on each of them: a ratio.

    Args:
        machine: with one card; its price is that of each card.
        efficiency: which part of `cards` times the speed the shared model reaches, at most 1.

    Raises:
        ScalingError: no card, or an efficiency above 1, which no communication gives.
    """
    if cards < 1 or not 0 < efficiency <= 1:
        raise ScalingError("It takes a card, and an efficiency above 0, at most 1.", where=f"{cards=}, {efficiency=}")
    shared = Machine(machine.name, machine.rtf / (cards * efficiency), cards * machine.price)
    return price_when_busy(shared) / price_when_busy(machine)


def compare_bills(machines: Sequence[Machine], hours: float, utilisation: float = 0.7) -> Mapping[str, Bill]:
    """Name -> bill, the cheapest day first."""
    bills = {machine.name: find_bill(machine, hours, utilisation) for machine in machines}
    return dict(sorted(bills.items(), key=lambda entry: entry[1].a_day))
