"""Solutions of 07_graph_rewrites. They spoil the fun: try first."""

from __future__ import annotations

import functools
import math

import numpy as np

from labsupport.course.exercises import Exercise, Mistake, Wrong

BEAMS, FRAMES = 5, 1500  # of article B; of a window, which cross-attention reads
PAST = 100  # how long the text is for which bytes are counted

# --- the running graph ------------------------------------------------------------------------------------------------


@functools.cache
def first_form():
    """tiny.en's decode step as an ONNX graph in article B's first form."""
    from labsupport.checkpoints.resolve import find_checkpoint
    from labsupport.course import trials
    from labsupport.graphs import whisper_graphs

    return whisper_graphs.decoder_step(find_checkpoint(trials.MODEL), BEAMS)


@functools.cache
def fixed_form():
    """The graph without Tiles and with caches of fixed size: all its shapes are numbers."""
    from labsupport.graphs import passes

    return passes.run_all(first_form(), ["tile_to_broadcast", "cache_to_static"])


@functools.cache
def real_inputs():
    """The clip's keys and values of cross-attention, and empty caches: names and arrays, as `Loop` takes them."""
    from labsupport.arrays import xp
    from labsupport.checkpoints.resolve import find_checkpoint
    from labsupport.course import trials
    from labsupport.graphs.loop import project_cross_kv

    checkpoint = find_checkpoint(trials.MODEL)
    cross_kv = project_cross_kv(checkpoint, xp.to_numpy(trials.load_plain().model.encode(trials.log_mel())))
    empty = np.zeros((BEAMS, 0, checkpoint.config.heads, checkpoint.config.head_dim), np.float32)
    return cross_kv, {name.replace("cross", "past"): empty for name in cross_kv}


def take_steps(model):
    """Eight decode steps in ONNX Runtime, in which each beam reads other tokens: logits (8, beams, vocabulary)."""
    from labsupport.course import trials
    from labsupport.graphs.loop import Loop

    loop, tokens = Loop(model, *real_inputs()), np.array(trials.expected_tokens())
    return np.stack([loop.decode_step(tokens[step : step + BEAMS]) for step in range(8)])


@functools.cache
def expected_logits():
    return take_steps(first_form())


def compare_with_first_form(model, before):
    """Says how much less than the graph `before` the rewritten one moves; `Wrong` if its logits are others."""
    from labsupport.graphs.analysis import bytes_by_op

    error = float(np.abs(take_steps(model) - expected_logits()).max())
    if not error < 1e-3:
        raise Wrong(f"the rewritten graph's logits are others: they differ by {error:.1e}.")
    moved, earlier = (sum(bytes_by_op(each, past=PAST).values()) / 1e6 for each in (model, before))
    return f"the logits of 8 steps and 5 beams are equal, and a step moves {earlier - moved:.1f} MB less."


# --- 7.1 --------------------------------------------------------------------------------------------------------------


def may_broadcast(shape, repeats, other):
    batch, matrix = slice(0, len(shape) - 2), slice(len(shape) - 2, None)
    fits = all(
        n == 1 or (length == 1 and o == n)
        for length, n, o in zip(shape[batch], repeats[batch], other[batch], strict=True)
    )
    return fits and all(n == 1 for n in repeats[matrix])


def may_broadcast_axis_by_axis(shape, repeats, other):
    for axis, times in enumerate(repeats):
        if times == 1:
            continue
        if axis >= len(shape) - 2 or shape[axis] != 1 or other[axis] != times:
            return False
    return True


def may_broadcast_by_shapes(shape, repeats, other):
    tiled = [length * times for length, times in zip(shape, repeats, strict=True)]
    try:
        same = np.broadcast_shapes(shape[:-2], other[:-2]) == np.broadcast_shapes(tiled[:-2], other[:-2])
    except ValueError:
        return False
    return same and tiled[-2:] == list(shape[-2:])


def may_broadcast_with_numpy(shape, repeats, other):
    shape, repeats, other = map(np.array, (shape, repeats, other))
    repeated = repeats != 1
    in_batch = np.arange(len(shape)) < len(shape) - 2
    return np.all(~repeated | (in_batch & (shape == 1) & (other == repeats)))


def draw_tile(rng):
    """Of each batch axis a kind: as it is, broadcast, or repeated in one of the ways in which it must stay."""
    shape, repeats, other = [], [], []
    good = rng.random() < 0.5
    for _ in range(rng.integers(0, 4)):
        n, m = (int(number) for number in rng.integers(2, 5, 2))
        kinds = [(n, 1, n), (1, n, n), (1, 1, n), (n, 1, 1), (1, n, 1), (n, m, n * m)]
        for row, number in zip((shape, repeats, other), kinds[rng.integers(4 if good else 6)], strict=True):
            row.append(number)
    rows, inner, columns = (int(number) for number in rng.integers(1, 5, 3))
    times = (1, 1) if good else tuple(int(rng.choice([1, 1, 1, n])) for n in (inner, columns))
    before = [length if n == 1 else 1 for length, n in zip((inner, columns), times, strict=True)]
    return (*shape, *before), (*repeats, *times), (*other, rows, inner)


def run_with_may_broadcast(answer):
    """The Tile pass on tiny.en's decoder, with the answer as its condition."""
    from labsupport.graphs import passes
    from labsupport.graphs.analysis import op_counts

    model = passes.tile_to_broadcast(first_form(), may_go=lambda *shapes: answer(*map(tuple, shapes)))
    before, left = op_counts(first_form())["Tile"], op_counts(model)["Tile"]
    if left:
        raise Wrong(f"{left} of the decoder's {before} Tiles stay, though a product would broadcast the same.")
    return f"In tiny.en's decoder {before} Tiles are gone; {compare_with_first_form(model, first_form())}"


# --- 7.2 --------------------------------------------------------------------------------------------------------------


def compose(first, second):
    return [first[axis] for axis in second]


def compose_by_trying(first, second):
    axes = np.zeros([2 + axis for axis in range(len(first))])  # every axis has a length of its own
    return [length - 2 for length in axes.transpose(first).transpose(second).shape]


def compose_with_numpy(first, second):
    return np.array(first)[np.array(second)]


def compose_with_matrices(first, second):
    unit = np.eye(len(first), dtype=int)
    return tuple((unit[list(second)] @ unit[list(first)]).argmax(1))


def draw_perms(rng):
    axes = int(rng.integers(2, 7))
    return rng.permutation(axes).tolist(), rng.permutation(axes).tolist()


def run_with_compose(answer):
    """tiny.en's decoder after q k^T = (k q^T)^T, which leaves permutes of permutes: the answer merges them."""
    from onnxscript.rewriter import pattern

    from labsupport.graphs.analysis import op_counts

    def pair(op, x, first, second):
        return op.Transpose(op.Transpose(x, perm=first), perm=second)

    def merged(op, x, first, second):
        perm = answer(list(first.as_ints()), list(second.as_ints()))
        return op.Transpose(x, perm=[int(axis) for axis in perm])

    turned = turn_products(fixed_form())
    model = rewrite(turned, pattern.RewriteRule(pair, merged))
    before, after = op_counts(turned)["Transpose"], op_counts(model)["Transpose"]
    return f"In tiny.en's decoder {after} Transposes are left of {before}; {compare_with_first_form(model, turned)}"


def turn_products(model):
    """Each product of a query with permuted keys as (k q^T)^T."""
    from onnxscript.rewriter import pattern

    def product(op, q, k):
        return op.MatMul(q, op.Transpose(k, perm=[0, 2, 3, 1]))

    def turned(op, q, k):
        result = op.MatMul(op.Transpose(k, perm=[0, 2, 1, 3]), op.Transpose(q, perm=[0, 1, 3, 2]))
        return op.Transpose(result, perm=[0, 1, 3, 2])

    return rewrite(model, pattern.RewriteRule(product, turned))


def rewrite(model, rule):
    """The model after one of onnxscript's rules, without the shapes noted before."""
    import onnx_ir as ir
    from onnxscript.rewriter import pattern

    rewritten = ir.from_proto(model)
    pattern.RewriteRuleSet([rule]).apply_to_model(rewritten)
    rewritten = ir.to_proto(rewritten)
    del rewritten.graph.value_info[:]
    return rewritten


# --- 7.3 --------------------------------------------------------------------------------------------------------------


def moves_data(shape, perm):
    longer = [axis for axis in perm if shape[axis] != 1]
    return longer != sorted(longer)


def moves_data_by_comparing(shape, perm):
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return (numbers.transpose(perm).ravel() != numbers.ravel()).any()


def moves_data_by_flags(shape, perm):
    return not np.empty(shape).transpose(perm).flags.c_contiguous


def moves_data_pair_by_pair(shape, perm):
    last = -1
    for axis in perm:
        if shape[axis] == 1:
            continue
        if axis < last:
            return True
        last = axis
    return False


def draw_permute(rng):
    axes = int(rng.integers(1, 6))
    shape = tuple(rng.choice([1, 1, 2, 2, 3], axes).tolist())
    return shape, tuple(rng.permutation(axes).tolist())


def run_with_moves_data(answer):
    """tiny.en's decoder, whose Transposes become Reshapes, which cost nothing, where the answer says so."""
    from onnxscript.rewriter import pattern

    from labsupport.graphs.analysis import op_counts

    def stays(context, x, perm):
        return not answer(tuple(x.shape.numpy()), tuple(perm.as_ints()))

    def permuted(op, x, perm):
        return op.Transpose(x, perm=perm)

    def reshaped(op, x, perm):
        import onnx_ir as ir

        target = np.array([x.shape[axis] for axis in perm.as_ints()])
        return op.Reshape(x, op.initializer(ir.tensor(target, name=f"{x.name}/order")))

    before = fixed_form()
    model = rewrite(before, pattern.RewriteRule(permuted, reshaped, stays))
    counts = [op_counts(each)["Transpose"] for each in (before, model)]
    if counts[0] == counts[1]:
        raise Wrong("no Transpose of the decoder has become a Reshape.")
    return (
        f"In tiny.en's decoder {counts[1]} of {counts[0]} Transposes are left; {compare_with_first_form(model, before)}"
    )


# --- 7.4 --------------------------------------------------------------------------------------------------------------


def scores(q, k):
    rows = q[:, :, 0].swapaxes(0, 1)  # (heads, beams, head_dim)
    return (rows @ k[0].swapaxes(-1, -2)).swapaxes(0, 1)[:, :, None]


def scores_by_head(q, k):
    per_head = [q[:, head, 0] @ k[0, head].T for head in range(q.shape[1])]  # each (beams, length)
    return np.stack(per_head, axis=1)[:, :, None]


def scores_by_einsum(q, k):
    return np.einsum("bhqd,hld->bhql", q, k[0])


def scores_of_the_keys(q, k):
    columns = q.transpose(2, 1, 3, 0)  # (1, heads, head_dim, beams)
    return np.matmul(k, columns).transpose(3, 1, 0, 2)  # from (1, heads, length, beams)


def draw_queries_keys(rng):
    beams, heads, length, head_dim = (int(number) for number in rng.integers(1, [6, 5, 8, 6]))
    dtype = rng.choice([np.float32, np.float64])
    q, k = rng.standard_normal((beams, heads, 1, head_dim)), rng.standard_normal((1, heads, length, head_dim))
    return q.astype(dtype), k.astype(dtype)


class Watched(np.ndarray):
    """An array that adds up how many numbers the products with it read, each operand as it is broadcast."""

    read = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **named):
        plain = [each.view(np.ndarray) if isinstance(each, Watched) else each for each in inputs]
        if ufunc is np.matmul and min(each.ndim for each in plain) > 1:
            batch = np.broadcast_shapes(*(each.shape[:-2] for each in plain))
            Watched.read += sum(math.prod((*batch, *each.shape[-2:])) for each in plain)
        elif ufunc is np.multiply and method == "__call__":
            Watched.read += len(plain) * math.prod(np.broadcast_shapes(*map(np.shape, plain)))
        result = getattr(ufunc, method)(*plain, **named)
        return result.view(Watched) if isinstance(result, np.ndarray) else result


def run_with_scores(answer):
    """tiny.en with five beams, whose cross-attention takes its scores from the answer."""
    from labsupport.arrays import xp
    from labsupport.course import trials
    from labsupport.optim.attention import sdpa, softmax_scale

    times = count_reads(answer)
    if times > 1:
        raise Wrong(f"the products of five beams read {times:.1f} times as many numbers as q and k hold.")
    part = trials.NumpyPart(answer)

    def attention(q, k, v, mask=None, causal=False):
        if k.shape[2] != FRAMES or q.shape[2] == FRAMES:
            return sdpa(q, k, v, mask, causal)  # self-attention, in the encoder or the decoder
        rows = q.swapaxes(0, 2) * softmax_scale(q)  # (beams, heads, 1, head_dim): one window's queries
        weights = xp.softmax(part(rows, k), axis=-1).swapaxes(0, 2)  # (1, heads, beams, 1500)
        return weights @ v

    found = trials.run_with(beams=BEAMS, part=part, attention=attention)
    return f"{found} Every product read the keys once, whatever the number of beams." if times else found


def count_reads(answer):
    """How many times the numbers that q and k hold the answer's products read; 0 where they are not NumPy's."""
    q, k = np.ones((BEAMS, 6, 1, 64), np.float32), np.ones((1, 6, FRAMES, 64), np.float32)
    Watched.read = 0
    try:
        answer(q.view(Watched), k.view(Watched))
    except TypeError:  # torch takes plain arrays alone
        return 0.0
    return Watched.read / (q.size + k.size)


EXERCISES = [
    Exercise(
        id="7.1",
        title="Tiles that a product does not need, in the graph",
        hints=(
            "Look at the repeated axes alone. When does a MatMul by itself read one matrix for several?",
            "A MatMul broadcasts batch axes, those before the last two. What must each operand have there?",
            "A repeated batch axis had length 1, and the other operand is as long there as the repeats; else it stays.",
        ),
        solution=may_broadcast,
        variants=[may_broadcast_axis_by_axis, may_broadcast_by_shapes, may_broadcast_with_numpy],
        draw=draw_tile,
        draws=40,
        edges=[
            ((1, 8, 64, 1500), (5, 1, 1, 1), (5, 8, 1, 64)),
            ((1, 8, 64, 1500), (5, 1, 1, 1), (1, 8, 1, 64)),
            ((2, 8, 64, 1500), (5, 1, 1, 1), (10, 8, 1, 64)),
            ((1, 1, 64, 7), (5, 8, 1, 1), (5, 8, 1, 64)),
            ((1, 1, 64, 7), (5, 8, 1, 1), (5, 1, 1, 64)),
            ((5, 8, 1, 1500), (1, 1, 64, 1), (5, 8, 64, 64)),
            ((5, 8, 64, 1), (1, 1, 1, 7), (5, 8, 1, 64)),
            ((5, 8, 64, 7), (1, 1, 1, 1), (5, 8, 1, 64)),
            ((1, 64, 7), (5, 1, 1), (5, 2, 64)),
            ((5, 1, 7), (1, 3, 1), (5, 3, 3)),
            ((2, 2, 1, 4, 6), (1, 1, 3, 1, 1), (2, 2, 3, 5, 4)),
            ((4, 6), (1, 1), (5, 4)),
            ((1, 6), (4, 1), (4, 4)),
        ],
        trial=run_with_may_broadcast,
        mistakes=[
            Mistake(
                lambda shape, repeats, other: all(
                    n == 1 or length == 1 for length, n in zip(shape, repeats, strict=True)
                ),
                "The result must be as long as before: check the other operand, and the last two axes.",
            ),
            Mistake(
                lambda shape, repeats, other: all(
                    n == 1 or (length == 1 and o == n) for length, n, o in zip(shape, repeats, other, strict=True)
                ),
                "The last two axes are the matrix itself: a product does not broadcast them.",
            ),
            Mistake(
                lambda shape, repeats, other: (
                    all(
                        n == 1 or o == length * n
                        for length, n, o in zip(shape[:-2], repeats[:-2], other[:-2], strict=True)
                    )
                    and repeats[-2:] == (1, 1)
                ),
                "Two matrices repeated five times are ten, but a product only broadcasts an axis of length 1.",
            ),
            Mistake(
                lambda shape, repeats, other: all(
                    n == 1 or (axis < 2 and shape[axis] == 1 and other[axis] == n) for axis, n in enumerate(repeats)
                ),
                "A graph may have more or fewer axes than four: count the matrix's two from the end.",
            ),
            Mistake(
                lambda shape, repeats, other: shape[0] == 1 and repeats[0] == other[0] and set(repeats[1:]) == {1},
                "Any batch axis may be repeated, not the first alone; and one that is not repeated is in no way.",
            ),
            Mistake(
                lambda shape, repeats, other: any(
                    n != 1 and axis < len(shape) - 2 and shape[axis] == 1 and other[axis] == n
                    for axis, n in enumerate(repeats)
                ),
                "All repeated axes must fit, not one of them; where none is repeated, nothing is lost either.",
            ),
        ],
    ),
    Exercise(
        id="7.2",
        title="Two permutes as one, in the graph",
        hints=(
            "Follow one axis of the end backwards, step by step, to the beginning.",
            "Axis i of the end is an axis of the middle, and that is an axis of the beginning.",
            "`second` names the axes of the middle that stand at the end; `first` says where those come from.",
        ),
        solution=compose,
        variants=[compose_by_trying, compose_with_numpy, compose_with_matrices],
        draw=draw_perms,
        draws=30,
        edges=[([0, 2, 1, 3], [0, 1, 3, 2]), ([1, 2, 0], [1, 2, 0]), ([0, 2, 1, 3], [0, 2, 1, 3])],
        trial=run_with_compose,
        mistakes=[
            Mistake(
                lambda first, second: [second[axis] for axis in first],
                "That is the other order: the first permute comes first.",
            ),
            Mistake(
                lambda first, second: [first.index(axis) for axis in second],
                "`first.index` inverts the first permute; it must be applied as it is.",
            ),
            Mistake(
                lambda first, second: list(second),
                "The first permute is missing: axis second[i] of the middle is another one of the beginning.",
            ),
            Mistake(
                lambda first, second: list(first),
                "The second permute is missing: it exchanges the axes once more.",
            ),
            Mistake(
                lambda first, second: [second.index(first.index(axis)) for axis in range(len(first))],
                "That leads from the beginning to the end; `perm` says for each axis of the end where it comes from.",
            ),
            Mistake(
                lambda first, second: [first[second[axis]] for axis in range(4)],
                "Not every array has four axes.",
            ),
        ],
    ),
    Exercise(
        id="7.3",
        title="Does a permute move anything? In the graph",
        hints=(
            "Write down a small array's numbers in the order in which they lie, before and after.",
            "An axis of length 1 may stand anywhere. Leave those out: what must the others do?",
            "Nothing moves if the axes that are longer than 1 come in the same order as before.",
        ),
        solution=moves_data,
        variants=[moves_data_by_comparing, moves_data_by_flags, moves_data_pair_by_pair],
        draw=draw_permute,
        draws=40,
        edges=[
            ((5, 1, 8, 64), (0, 2, 1, 3)),
            ((5, 1500, 8, 64), (0, 2, 1, 3)),
            ((5, 8, 1, 64), (0, 1, 3, 2)),
            ((2, 3), (0, 1)),
            ((2, 3), (1, 0)),
            ((4, 4), (1, 0)),
            ((2, 2, 2), (0, 1, 2)),
            ((2, 2, 2), (1, 0, 2)),
            ((1, 4, 1, 3), (3, 0, 1, 2)),
            ((1, 4, 1, 3), (2, 1, 0, 3)),
            ((2, 1, 3), (2, 1, 0)),
        ],
        trial=run_with_moves_data,
        mistakes=[
            Mistake(
                lambda shape, perm: list(perm) != sorted(perm),
                "Permuting an axis of length 1 changes the shape, but no number's place in memory.",
            ),
            Mistake(
                lambda shape, perm: 1 not in shape,
                "An axis of length 1 somewhere does not help if two longer ones change places.",
            ),
            Mistake(
                lambda shape, perm: tuple(shape[axis] for axis in perm) != tuple(shape),
                "The shape may change without a move; compare the order of the axes that are longer than 1.",
            ),
            Mistake(
                lambda shape, perm: [shape[axis] for axis in perm if shape[axis] > 1] != [n for n in shape if n > 1],
                "Two axes of the same length may change places, too: compare the axes, not their lengths.",
            ),
            Mistake(
                lambda shape, perm: not moves_data(shape, perm),
                "True is for a permute that moves numbers; it is the other way round.",
            ),
            Mistake(
                lambda shape, perm: any(axis != place and shape[axis] != 1 for place, axis in enumerate(perm)),
                "An axis may come to stand elsewhere only because one of length 1 has gone: look at the order.",
            ),
            Mistake(
                lambda shape, perm: (
                    [axis for axis in perm if shape[axis] > 2] != [axis for axis in sorted(perm) if shape[axis] > 2]
                ),
                "Only axes of length 1 may stand anywhere; one of length 2 has an order.",
            ),
        ],
    ),
    Exercise(
        id="7.4",
        title="Beams as the rows of one matrix, in the model",
        hints=(
            "All beams ask the same keys: in which matrix could each of them be one row?",
            "Each head has a matrix of its own, with a row for each beam. Bring the heads to the front.",
            "The product is (heads, beams, head_dim) times (heads, head_dim, length); then bring the beams back.",
        ),
        solution=scores,
        variants=[scores_by_head, scores_by_einsum, scores_of_the_keys],
        draw=draw_queries_keys,
        exact_dtype=True,
        edges=[(np.ones((1, 1, 1, 1), np.float32), np.full((1, 1, 2, 1), 3, np.float32))],
        trial=run_with_scores,
        mistakes=[
            Mistake(
                lambda q, k: (q[:, :, 0].swapaxes(0, 1) @ k[0].swapaxes(-1, -2))[:, :, None],
                "The heads are still in front: bring the beams back there.",
            ),
            Mistake(
                lambda q, k: (q[:, :, 0].swapaxes(0, 1) @ k[0].swapaxes(-1, -2)).swapaxes(0, 1),
                "The axis of the one query is missing: (beams, heads, 1, length).",
            ),
            Mistake(
                lambda q, k: np.repeat((q[:, :, 0] @ k[0, 0].T)[:, :, None], 1, axis=1),
                "Each head has its own keys; these are the first head's.",
            ),
            Mistake(
                lambda q, k: scores(q[:1], k),
                "Only the first beam's scores come out.",
            ),
            Mistake(
                lambda q, k: scores(q, k) / np.sqrt(q.shape[-1]).astype(q.dtype),
                "The scores are asked for as they are: they are scaled elsewhere.",
            ),
            Mistake(
                lambda q, k: scores(q, k).astype(np.float16),
                "Half precision loses digits here: compute in the precision that comes in.",
            ),
            Mistake(
                lambda q, k: (q[:, :, 0].swapaxes(0, 1) @ k[0].reshape(k.shape[1], k.shape[3], k.shape[2])).swapaxes(
                    0, 1
                )[:, :, None],
                "A reshape gives the transposed shape, but not the transposed matrix: exchange the axes.",
            ),
        ],
    ),
]
