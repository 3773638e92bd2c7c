"""Solutions of 11_training_memory. They spoil the fun: try first."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from labsupport.course.exercises import Exercise, Mistake, Wrong

# --- 11.1 -------------------------------------------------------------------------------------------------------------


def most_alive(layers, every, inside):
    firsts = range(0, layers, every)
    return max(number + inside * min(every, layers - first) for number, first in enumerate(firsts, 1))


def most_alive_backwards(layers, every, inside):
    sizes = [every] * (layers // every) + [layers % every] * (layers % every > 0)
    most, entries = 0, len(sizes)
    while sizes:
        most = max(most, entries + sizes.pop() * inside)
        entries -= 1  # the group's input has been used
    return most


def most_alive_of_two(layers, every, inside):
    whole, rest = divmod(layers, every)
    return max(whole and whole + every * inside, rest and whole + 1 + rest * inside)


def most_alive_with_numpy(layers, every, inside):
    firsts = np.arange(0, layers, every)
    return np.max(1 + np.arange(len(firsts)) + inside * np.minimum(every, layers - firsts))


def most_alive_by_floor(layers, every, inside):
    return layers // every + every * inside  # as long as an inside is no smaller than an input


def draw_layers(rng):
    layers = int(rng.integers(1, 60))
    inside = [int(rng.integers(1, 20)), float(rng.integers(2, 40) / 2)][rng.integers(2)]
    return layers, int(rng.integers(1, layers + 1)), inside


# --- 11.2 -------------------------------------------------------------------------------------------------------------


def run_groups(x, layers, every, recompute):
    for first in range(0, len(layers), every):
        x = recompute(layers[first : first + every], x)
    return x


def run_groups_by_reduction(x, layers, every, recompute):
    groups = [layers[first : first + every] for first in range(0, len(layers), every)]
    return functools.reduce(lambda x, group: recompute(group, x), groups, x)


def run_groups_by_recursion(x, layers, every, recompute):
    if not layers:
        return x
    return run_groups_by_recursion(recompute(layers[:every], x), layers[every:], every, recompute)


def run_groups_collected(x, layers, every, recompute):
    group = []
    for layer in layers:
        group.append(layer)
        if len(group) == every:
            x, group = recompute(group, x), []
    return recompute(group, x) if group else x


def without_the_rest(x, layers, every, recompute):
    for number in range(len(layers) // every):
        x = recompute(layers[number * every : (number + 1) * every], x)
    return x


def rest_not_recomputed(x, layers, every, recompute):
    x = without_the_rest(x, layers, every, recompute)
    for layer in layers[len(layers) - len(layers) % every :]:
        x = layer(x)
    return x


def every_from_the_input(x, layers, every, recompute):
    out = x
    for first in range(0, len(layers), every):
        out = recompute(layers[first : first + every], x)
    return out


def from_nothing(x, layers, every, recompute):
    return run_groups([], layers, every, recompute)


def one_layer_a_group(x, layers, every, recompute):
    return run_groups(x, layers, 1, recompute)


def never_recomputed(x, layers, every, recompute):
    for layer in layers:
        x = layer(x)
    return x


def groups_taken_out(x, layers, every, recompute):
    while layers:
        group = [layers.pop(0) for _ in range(min(every, len(layers)))]
        x = recompute(group, x)
    return x


def overlapping(x, layers, every, recompute):
    for first in range(0, len(layers), every):
        x = recompute(layers[first : first + every + 1], x)
    return x


def mark(number, trace):
    return [*trace, number]


def mark_group(brackets, group, trace):
    for layer in group:
        trace = layer(trace)
    return [brackets[0], *trace, brackets[1]]


def draw_groups(rng):
    """Layers that write down their number behind what comes in, and a `recompute` that puts a group in brackets."""
    layers = [functools.partial(mark, number) for number in rng.permutation(int(rng.integers(1, 12))).tolist()]
    recompute = functools.partial(mark_group, str(rng.choice(["()", "[]", "<>"])))
    return rng.integers(100, 999, rng.integers(3)).tolist(), layers, int(rng.integers(1, 7)), recompute


@functools.cache
def find_gradients():
    """tiny.en's encoder as it is: its gradients, and the bytes that it saves for backward where they can be seen."""
    return train_encoder(lambda layers: layers)


def train_encoder(run):
    """One training pass of tiny.en's encoder, in which every layer's forward is counted."""
    from labsupport import whisper
    from labsupport.arrays import xp
    from labsupport.course import trials

    encoder = whisper.load(trials.MODEL, device="cpu", run=run).model.encoder
    x = xp.asarray(trials.log_mel())

    def find_loss():
        return (encoder(x) ** 2).mean()

    saved = None
    if xp.name == "torch":
        from labsupport.optim.saved_tensors import saved_bytes

        saved = saved_bytes(find_loss, list(encoder.parameters()))
    return xp.gradients(find_loss, encoder), saved


def run_groups_in_the_encoder(answer):
    """tiny.en's encoder, whose four layers the answer runs in groups of two."""
    from labsupport.arrays import xp

    def run(layers):
        return [lambda x: answer(x, list(layers), 2, xp.recompute)]

    (found, saved), (expected, before) = train_encoder(run), find_gradients()
    for name, gradient in expected.items():
        if name not in found or np.linalg.norm(found[name] - gradient) > 1e-5 * np.linalg.norm(gradient) + 1e-12:
            raise Wrong(f"the gradient of {name} is another one.")
    if saved is None:
        return f"All {len(expected)} gradients are equal."
    if saved > 0.6 * before:
        raise Wrong(f"the encoder saves {saved / 1e6:.0f} MB for backward; without groups {before / 1e6:.0f} MB.")
    return f"All {len(expected)} gradients are equal, and {saved / 1e6:.0f} MB are saved, not {before / 1e6:.0f} MB."


# --- 11.3 -------------------------------------------------------------------------------------------------------------


def whole_gradient(gradients, counts):
    return sum(gradient * count for gradient, count in zip(gradients, counts, strict=True)) / sum(counts)


def whole_gradient_with_average(gradients, counts):
    return np.average(gradients, axis=0, weights=counts)


def whole_gradient_by_a_product(gradients, counts):
    shares = np.asarray(counts) / np.sum(counts)
    return np.tensordot(shares.astype(np.float32), np.stack(gradients), 1)


def whole_gradient_step_by_step(gradients, counts):
    total = np.zeros_like(gradients[0])
    for gradient, count in zip(gradients, counts, strict=True):
        total += count / sum(counts) * gradient
    return total


def added_in_place(gradients, counts):
    for gradient, count in zip(gradients, counts, strict=True):
        gradient *= count / sum(counts)
    for gradient in gradients[1:]:
        gradients[0] += gradient
    return gradients[0]


def draw_gradients(rng):
    shape = tuple(rng.integers(1, 5, rng.integers(1, 4)))
    batches = int(rng.integers(1, 6))
    gradients = [rng.standard_normal(shape, dtype=np.float32) for _ in range(batches)]
    return gradients, rng.integers(1, 60, batches).tolist()


def run_whole_gradient(answer):
    """A small Whisper of transformers with random weights: three batches against one of all their sentences."""
    import importlib.util

    from labsupport.arrays import xp

    if xp.name != "torch" or importlib.util.find_spec("transformers") is None:
        return "(Its part in a training step is checked on torch, with transformers.)"
    import torch

    model, examples = make_small()

    def find_gradient(first, stop):
        from labsupport.whisper import fine_tuning

        inputs = fine_tuning.collate(examples[first:stop])
        labels = inputs.pop("labels")
        model.zero_grad()
        fine_tuning.loss_per_token(model(**inputs), labels).backward()
        tokens = int((labels != fine_tuning.IGNORE_INDEX).sum())
        return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None]).numpy().copy(), tokens

    batches = [find_gradient(first, stop) for first, stop in itertools.pairwise([0, 1, 3, 6])]
    whole, _ = find_gradient(0, 6)
    found = np.asarray(answer([gradient for gradient, _ in batches], [tokens for _, tokens in batches]))
    far = float(np.linalg.norm(found - whole) / np.linalg.norm(whole))
    if not far < 1e-4:
        raise Wrong(f"your gradient of three batches differs from that of one by {100 * far:.2f} %.")
    return f"The gradient of three batches is that of one: {whole.size:,} numbers, to 0.01 %."


@functools.cache
def make_small():
    """A small Whisper, and six sentences of the corpus."""
    import torch
    import transformers

    from labsupport.checkpoints.resolve import find_checkpoint
    from labsupport.speech import corpus
    from labsupport.whisper import fine_tuning

    checkpoint = find_checkpoint("tiny.en")
    tokenizer = fine_tuning.Tokenizer(checkpoint.folder)
    examples = [fine_tuning.to_example(s, tokenizer, checkpoint.config) for s in corpus.load("train")[:6]]
    torch.manual_seed(0)
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    shape = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    config = transformers.WhisperConfig(vocab_size=checkpoint.config.vocab_size, **shape, **heads)
    return transformers.WhisperForConditionalGeneration(config), examples


EXERCISES = [
    Exercise(
        id="11.1",
        title="How much is alive",
        hints=(
            "Go through the backward pass group by group, from the last to the first. What is alive during each?",
            "The inputs of this group and of those that are still to come are alive; and the inside of this one.",
            "The most may be at the last group or before it, if the last one is shorter: compare all.",
        ),
        solution=most_alive,
        variants=[most_alive_backwards, most_alive_of_two, most_alive_with_numpy, most_alive_by_floor],
        draw=draw_layers,
        draws=60,
        edges=[(10, 4, 1), (100, 10, 1), (9, 3, 16), (10, 4, 2.5), (6, 6, 16)],
        mistakes=[
            Mistake(
                lambda layers, every, inside: -(-layers // every) + every,
                "A layer's inside is not one unit: multiply it in.",
            ),
            Mistake(
                lambda layers, every, inside: -(-layers // every) + every * inside,
                "While a whole group's inside is alive, the input of a shorter last group is gone.",
            ),
            Mistake(
                lambda layers, every, inside: layers / every + every * inside,
                "Inputs are whole: count the groups that are still to come.",
            ),
            Mistake(
                lambda layers, every, inside: -(-layers // every) * every * inside,
                "Only one group's inside is alive at a time, not that of all.",
            ),
            Mistake(
                lambda layers, every, inside: -(-layers // every) + (layers % every or every) * inside,
                "That is the last group alone: if it is shorter, more is alive before it.",
            ),
            Mistake(
                lambda layers, every, inside: most_alive(layers, every, inside) - 1,
                "The input of the group itself is alive, too.",
            ),
        ],
    ),
    Exercise(
        id="11.2",
        title="Layers in groups, in the encoder",
        hints=(
            "What goes into one group is what came out of the group before.",
            "Step through the layers, `every` at a time, and give each slice to `recompute`.",
            "A slice may reach beyond the end: that is the shorter last group, recomputed like the others.",
        ),
        solution=run_groups,
        variants=[run_groups_by_reduction, run_groups_by_recursion, run_groups_collected],
        draw=draw_groups,
        trial=run_groups_in_the_encoder,
        mistakes=[
            Mistake(without_the_rest, "The last layers are missing: a last group may be shorter."),
            Mistake(rest_not_recomputed, "The shorter last group must be recomputed, too."),
            Mistake(every_from_the_input, "Each group goes on with what the group before gave."),
            Mistake(from_nothing, "The first group's input is `x`."),
            Mistake(one_layer_a_group, "A group has `every` layers."),
            Mistake(never_recomputed, "All insides are saved so: give the groups to `recompute`."),
            Mistake(groups_taken_out, "The caller's list of layers must stay as it was."),
            Mistake(overlapping, "A layer belongs to one group: the slice ends where the next one begins."),
        ],
    ),
    Exercise(
        id="11.3",
        title="Many small batches, in a training step",
        hints=(
            "In the large batch every token counts alike. How much does a token of a small batch count in your answer?",
            "A batch counts as much as it has tokens.",
            "Undo each batch's mean before you add up, and take the mean over all tokens at the end.",
        ),
        solution=whole_gradient,
        variants=[whole_gradient_with_average, whole_gradient_by_a_product, whole_gradient_step_by_step],
        draw=draw_gradients,
        trial=run_whole_gradient,
        mistakes=[
            Mistake(
                lambda gradients, counts: sum(gradients) / len(gradients),
                "That counts each batch alike: a token in a short batch counts more than one in a long batch.",
            ),
            Mistake(
                lambda gradients, counts: sum(g * c for g, c in zip(gradients, counts, strict=True)) / len(gradients),
                "Divide by the tokens, not by the batches.",
            ),
            Mistake(
                lambda gradients, counts: (
                    sum(g / c for g, c in zip(gradients, counts, strict=True)) / sum(1 / c for c in counts)
                ),
                "The other way round: a batch with more tokens counts more.",
            ),
            Mistake(lambda gradients, counts: sum(gradients), "Backward adds up, but each is the gradient of a mean."),
            Mistake(
                lambda gradients, counts: np.asarray(whole_gradient(gradients, counts)).mean(),
                "Every weight has its own gradient: the result has the shape of one of them.",
            ),
            Mistake(added_in_place, "The caller's gradients must stay as they were."),
        ],
    ),
]
