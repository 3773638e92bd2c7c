"""Solutions of 15_put_it_together. They spoil the fun: try first."""

from __future__ import annotations

import numpy as np

from labsupport.course.exercises import Exercise, Mistake

# --- 15.1 -------------------------------------------------------------------------------------------------------------


def whole_gain(seconds, gains):
    after = sum(time / gains.get(part, 1) for part, time in seconds.items())
    return sum(seconds.values()) / after


def whole_gain_by_what_is_saved(seconds, gains):
    whole = sum(seconds.values())
    saved = sum(seconds[part] * (1 - 1 / gain) for part, gain in gains.items() if part in seconds)
    return whole / (whole - saved)


def whole_gain_by_shares(seconds, gains):
    whole = sum(seconds.values())
    shares = {part: time / whole for part, time in seconds.items()}
    return 1 / sum(share / gains[part] if part in gains else share for part, share in shares.items())


def whole_gain_part_by_part(seconds, gains):
    before = after = 0.0
    for part in seconds:
        before += seconds[part]
        after += seconds[part] / gains[part] if part in gains else seconds[part]
    return before / after


PARTS = ["log-mel", "encoder", "prefill", "decode steps", "detector"]


def draw_parts(rng):
    seconds = {part: float(rng.uniform(0.1, 5)) for part in PARTS[: rng.integers(1, 6)]}
    gains = {part: float(rng.uniform(0.5, 8)) for part in rng.permutation(PARTS)[: rng.integers(0, 5)].tolist()}
    return seconds, gains


# --- 15.2 -------------------------------------------------------------------------------------------------------------


def smooth_layer(inputs, weight, strength):
    return inputs**strength / np.abs(weight).max(axis=0) ** (1 - strength)


def smooth_by_logarithms(inputs, weight, strength):
    columns = np.abs(weight).max(axis=0)
    return np.exp(strength * np.log(inputs) - (1 - strength) * np.log(columns))


def smooth_column_by_column(inputs, weight, strength):
    columns = [max(abs(value) for value in column) for column in weight.T.tolist()]
    return np.array([a**strength / b ** (1 - strength) for a, b in zip(inputs.tolist(), columns, strict=True)])


def smooth_by_rows(inputs, weight, strength):
    columns = np.zeros(len(inputs))
    for row in weight:
        columns = np.maximum(columns, np.abs(row))
    return np.power(inputs, strength) * np.power(columns, strength - 1)


def draw_layer(rng):
    out, inside = int(rng.integers(2, 7)), int(rng.integers(2, 7))
    weight = rng.uniform(0.1, 2, (out, inside)) * rng.choice([-1, 1], (out, inside))
    return rng.uniform(0.1, 50, inside), weight, float(rng.choice([0.25, 0.5, 0.75]))


# --- 15.3 -------------------------------------------------------------------------------------------------------------


def choose(entrants, most_errors, most_memory):
    able = [each for each in entrants if each["wer"] <= most_errors and each["memory"] <= most_memory]
    return min(able, key=lambda each: each["seconds"])["name"] if able else ""


def choose_by_sorting(entrants, most_errors, most_memory):
    for each in sorted(entrants, key=lambda each: each["seconds"]):
        if not (each["wer"] > most_errors or each["memory"] > most_memory):
            return each["name"]
    return ""


def choose_in_a_loop(entrants, most_errors, most_memory):
    name, best = "", float("inf")
    for each in entrants:
        fits = each["wer"] <= most_errors and each["memory"] <= most_memory
        if fits and each["seconds"] < best:
            name, best = each["name"], each["seconds"]
    return name


def choose_by_names(entrants, most_errors, most_memory):
    able = {each["name"]: each["seconds"] for each in entrants if each["wer"] <= most_errors}
    memory = {each["name"]: each["memory"] for each in entrants}
    return min((name for name in able if memory[name] <= most_memory), key=able.get, default="")


def draw_race(rng):
    entrants = [
        {
            "name": name,
            "seconds": round(float(rng.uniform(1, 9)), 3),
            "wer": round(float(rng.integers(20, 30)) / 10, 1),
            "memory": int(rng.integers(3, 9)) * 100,
        }
        for name in "abcdef"[: rng.integers(1, 7)]
    ]
    return entrants, round(float(rng.integers(20, 30)) / 10, 1), int(rng.integers(3, 9)) * 100


def cheapest(entrants, most_errors, most_memory):
    able = [each for each in entrants if each["wer"] <= most_errors and each["memory"] <= most_memory]
    return min(able, key=lambda each: each["wer"])["name"] if able else ""


def entrant(name, seconds, wer, memory):
    return {"name": name, "seconds": seconds, "wer": wer, "memory": memory}


EXERCISES = [
    Exercise(
        id="15.1",
        title="What gains of parts make of the whole",
        hints=(
            "A gain shortens its own part alone. How long does each part take afterwards?",
            "A part of 4 s with a gain of 2 takes 2 s; one without a gain takes what it took.",
            "Divide the sum of the times before by the sum of time / gain, with a gain of 1 where none is given.",
        ),
        solution=whole_gain,
        variants=[whole_gain_by_what_is_saved, whole_gain_by_shares, whole_gain_part_by_part],
        draw=draw_parts,
        edges=[
            ({"encoder": 3.0, "decode steps": 1.0}, {"encoder": 3.0}),
            ({"encoder": 3.0, "decode steps": 1.0}, {}),
            ({"encoder": 2.0}, {"encoder": 0.5}),
            ({"encoder": 1.0}, {"detector": 9.0}),
        ],
        mistakes=[
            Mistake(
                lambda seconds, gains: float(np.prod([gains.get(part, 1) for part in seconds])),
                "Gains multiply only where each of them shortens all that is left.",
            ),
            Mistake(
                lambda seconds, gains: float(np.mean([gains.get(part, 1) for part in seconds])),
                "A part's gain counts for as much as the part takes of the whole.",
            ),
            Mistake(
                lambda seconds, gains: (
                    sum(time * gains.get(part, 1) for part, time in seconds.items()) / sum(seconds.values())
                ),
                "Average the times, not the gains: the time afterwards is time / gain.",
            ),
            Mistake(
                lambda seconds, gains: 1 / whole_gain(seconds, gains),
                "A gain above 1 is faster: the time before, divided by the time after.",
            ),
            Mistake(
                lambda seconds, gains: (
                    sum(seconds[part] for part in gains if part in seconds)
                    / max(1e-9, sum(seconds[part] / gains[part] for part in gains if part in seconds))
                ),
                "The parts without a gain take their time, too.",
            ),
        ],
    ),
    Exercise(
        id="15.2",
        title="Outliers moved into the weight",
        hints=(
            "Each input channel is divided by its factor, and its column of the weight multiplied by it.",
            "The columns' largest absolute values are np.abs(weight).max(axis=0): one for each input channel.",
            "The factors are inputs ** strength / columns ** (1 - strength).",
        ),
        solution=smooth_layer,
        variants=[smooth_by_logarithms, smooth_column_by_column, smooth_by_rows],
        draw=draw_layer,
        edges=[
            (np.array([1.0, 100.0]), np.array([[1.0, -1.0], [0.5, 1.0]]), 0.5),
            (np.array([4.0, 9.0, 1.0]), np.array([[4.0, 1.0, -16.0], [1.0, -9.0, 1.0]]), 0.5),
            (np.array([8.0, 2.0]), np.array([[1.0, 2.0], [3.0, -4.0]]), 0.25),
        ],
        mistakes=[
            Mistake(
                lambda inputs, weight, strength: inputs**strength,
                "The weight must round well, too: its columns' largest values divide.",
            ),
            Mistake(
                lambda inputs, weight, strength: smooth_layer(inputs, weight, 1 - strength),
                "Strength 1 moves all of the difference into the weight, 0 none.",
            ),
            Mistake(
                lambda inputs, weight, strength: (
                    inputs**strength / np.maximum(weight.max(axis=0), 0.01) ** (1 - strength)
                ),
                "Negative weights are as large as positive ones: take absolute values first.",
            ),
            Mistake(
                lambda inputs, weight, strength: inputs**strength / np.abs(weight).mean(axis=0) ** (1 - strength),
                "The largest value of a column sets its scale, not the mean.",
            ),
            Mistake(
                lambda inputs, weight, strength: 1 / smooth_layer(inputs, weight, strength),
                "Inputs are divided by the factor: where they are large, it is large.",
            ),
        ],
    ),
    Exercise(
        id="15.3",
        title="Which engine to take",
        hints=(
            "First leave out all that do not do the work, then look at the times.",
            "An entrant may have exactly as many errors, or need exactly as much memory, as is allowed.",
            "Of those with wer <= most_errors and memory <= most_memory name the one with the fewest seconds.",
        ),
        solution=choose,
        variants=[choose_by_sorting, choose_in_a_loop, choose_by_names],
        draw=draw_race,
        edges=[
            ([entrant("a", 1.0, 2.5, 400), entrant("b", 2.0, 2.0, 300)], 2.5, 400),
            ([entrant("a", 1.0, 2.6, 400), entrant("b", 2.0, 2.0, 300)], 2.5, 400),
            ([entrant("a", 1.0, 2.5, 500), entrant("b", 2.0, 2.0, 300)], 2.5, 400),
            ([entrant("a", 1.0, 2.6, 400)], 2.5, 400),
            ([], 2.5, 400),
            ([entrant("a", 3.0, 2.0, 400), entrant("b", 2.0, 2.4, 300), entrant("c", 1.0, 9.0, 300)], 2.5, 400),
        ],
        mistakes=[
            Mistake(
                lambda entrants, most_errors, most_memory: choose(entrants, float("inf"), most_memory),
                "Who leaves words out is fast. Its time does not count.",
            ),
            Mistake(
                lambda entrants, most_errors, most_memory: choose(entrants, most_errors, float("inf")),
                "One that does not fit into the memory cannot be taken.",
            ),
            Mistake(
                lambda entrants, most_errors, most_memory: choose(entrants, most_errors - 1e-6, most_memory - 1e-6),
                "As many errors as are allowed are allowed.",
            ),
            Mistake(cheapest, "Of those that may be taken the fastest, not the most exact."),
            Mistake(
                lambda entrants, most_errors, most_memory: (
                    min(entrants, key=lambda each: each["seconds"])["name"] if entrants else ""
                ),
                "The fastest of all need not be allowed.",
            ),
        ],
    ),
]
