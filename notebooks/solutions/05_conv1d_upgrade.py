"""Solutions of 05_conv1d_upgrade. They spoil the fun: try first."""

from __future__ import annotations

import math

import numpy as np

from labsupport.course.exercises import Exercise, Mistake, Wrong

# --- 5.1 --------------------------------------------------------------------------------------------------------------


def frames_out(frames, kernel, stride, padding):
    return (frames + 2 * padding - kernel) // stride + 1


def frames_out_by_counting(frames, kernel, stride, padding):
    return len(range(0, frames + 2 * padding - kernel + 1, stride))


def frames_out_by_sliding(frames, kernel, stride, padding):
    start, places = -padding, 0
    while start + kernel <= frames + padding:
        start, places = start + stride, places + 1
    return places


def frames_out_by_a_convolution(frames, kernel, stride, padding):
    every = np.convolve(np.ones(frames + 2 * padding), np.ones(kernel), "valid")
    return every[::stride].shape[0]


def draw_row(rng):
    kernel, stride, padding = rng.integers([1, 1, 0], [9, 6, 5]).tolist()
    return int(rng.integers(max(1, kernel - 2 * padding), 40)), kernel, stride, padding


def run_with_frames_out(answer):
    """tiny.en, whose convolutions make room for as many columns as the answer says."""
    from labsupport.course import trials

    made = []

    def fill_columns(x, kernel, stride):
        taken = int(answer(x.shape[1] - 2, kernel, stride, 1))  # Whisper's padding is 1
        columns = np.zeros((kernel * x.shape[0], taken), np.float32)
        for tap, rows in enumerate(np.split(columns, kernel)):
            rows[:] = x[:, tap : tap + (taken - 1) * stride + 1 : stride]
        made.append(taken)
        return columns

    said = trials.check_tokens(trials.find_tokens_with_encoder(conv1d=via_columns(fill_columns)))
    return f"{said} The two convolutions give {made[0]} and {made[1]} frames."


def via_columns(make_columns):
    """A form of Conv1D that multiplies what `make_columns` makes of each padded row; see labsupport.optim.conv1d."""
    from labsupport.arrays import xp

    def conv1d(x, weight, bias, stride=1, padding=0):
        out, channels, kernel = weight.shape
        matrix = xp.to_numpy(weight).swapaxes(1, 2).reshape(out, kernel * channels)
        padded = np.pad(xp.to_numpy(x), ((0, 0), (0, 0), (padding, padding)))
        columns = np.stack([np.asarray(make_columns(row, kernel, stride), np.float32) for row in padded])
        return xp.asarray(matrix @ columns + xp.to_numpy(bias)[:, None], x)  # (batch, out, frames out)

    return conv1d


# --- 5.2 --------------------------------------------------------------------------------------------------------------


def amdahl(share, factor):
    return 1 / (1 - share + share / factor)


def amdahl_in_seconds(share, factor):
    before, part = 100.0, 100.0 * share
    return before / (before - part + part / factor)


def amdahl_by_what_is_saved(share, factor):
    saved = share * (1 - 1 / factor)
    return np.divide(1, 1 - saved)


def amdahl_by_cases(share, factor):
    rest = 1 - share
    return 1 / rest if math.isinf(factor) else factor / (factor * rest + share)


def draw_share(rng):
    share = float(rng.uniform(0, 0.99))
    return share, math.inf if rng.integers(4) == 0 else float(rng.uniform(0.5, 20))


# --- 5.3 --------------------------------------------------------------------------------------------------------------


def to_columns(x, kernel, stride):
    taken = (x.shape[1] - kernel) // stride + 1
    return np.concatenate([x[:, tap : tap + (taken - 1) * stride + 1 : stride] for tap in range(kernel)])


def to_columns_by_windows(x, kernel, stride):
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=1)[:, ::stride]  # (channels, taken, kernel)
    return windows.transpose(2, 0, 1).reshape(kernel * x.shape[0], -1)


def to_columns_by_indices(x, kernel, stride):
    starts = np.arange(0, x.shape[1] - kernel + 1, stride)
    return np.vstack([x[:, starts + tap] for tap in range(kernel)])


def to_columns_one_by_one(x, kernel, stride):
    places = range(0, x.shape[1] - kernel + 1, stride)
    return np.array([x[:, place : place + kernel].T.ravel() for place in places]).T.tolist()


def to_columns_with_torch(x, kernel, stride):
    import torch

    return torch.cat(list(torch.from_numpy(x).unfold(1, kernel, stride).unbind(2)))


def to_columns_in_place(x, kernel, stride):
    x -= x.mean()
    return to_columns(x, kernel, stride)


def draw_input(rng):
    channels, kernel, stride = rng.integers(1, [5, 6, 5]).tolist()
    frames = kernel + int(rng.integers(0, 9))
    return rng.standard_normal((channels, frames), dtype=np.float32), kernel, stride


def example(channels, frames):
    return np.arange(channels * frames, dtype=np.float32).reshape(channels, frames)


def run_with_to_columns(answer):
    """tiny.en, whose convolutions are the answer and a matrix product."""
    from labsupport.course import trials

    made = []

    def measured(x, kernel, stride):
        columns = np.asarray(answer(x, kernel, stride), np.float32)
        made.append(f"{x.nbytes / 1e6:.1f} MB became {columns.nbytes / 1e6:.1f} MB")
        return columns

    said = trials.check_tokens(trials.find_tokens_with_encoder(conv1d=via_columns(measured)))
    return f"{said} In columns, {made[0]} and {made[1]}."


# --- 5.4 --------------------------------------------------------------------------------------------------------------


def bytes_moved(channels, frames, itemsize, copies):
    return 2 * channels * frames * itemsize if copies else 0


def bytes_moved_by_step(channels, frames, itemsize, copies):
    read = write = channels * frames * itemsize * bool(copies)
    return read + write


def bytes_moved_of_an_array(channels, frames, itemsize, copies):
    array = np.broadcast_to(np.zeros((), f"V{itemsize}"), (channels, frames))
    return sum([array.nbytes, array.T.nbytes]) if copies else 0


def bytes_moved_by_numpy(channels, frames, itemsize, copies):
    return np.where(copies, np.prod([2, channels, frames, itemsize]), 0)


def draw_step(rng):
    channels, frames = rng.integers(1, [1281, 3001]).tolist()
    return channels, frames, int(rng.choice([1, 2, 4, 8])), bool(rng.integers(2))


def run_with_bytes_moved(answer):
    """tiny.en with the transposed detour; of each of its steps it is measured whether it made memory of its own."""
    from labsupport.arrays import xp
    from labsupport.course import trials

    moved, counted = [], []

    def measure(before, after):
        channels, frames = sorted(before.shape[1:])
        copies = before.data_ptr() != after.data_ptr()
        moved.append(xp.to_numpy(before).nbytes + xp.to_numpy(after).nbytes if copies else 0)
        counted.append(answer(channels, frames, before.itemsize, copies))
        return after

    def transposed(x, weight, bias, stride=1, padding=0):
        last = measure(x, x.swapaxes(1, 2))
        last = measure(last, last.contiguous())  # (batch, frames, channels)
        first = measure(last, last.swapaxes(1, 2))
        return xp.conv1d(first, weight, bias, stride, padding)

    said = trials.check_tokens(trials.find_tokens_with_encoder(conv1d=transposed))
    for number, (bytes_there, bytes_said) in enumerate(zip(moved, counted, strict=True), 1):
        if bytes_there != bytes_said:
            raise Wrong(f"step {number} of {len(moved)} moved {bytes_there:,} bytes; you count {bytes_said:,}.")
    return f"{said} Of {len(moved)} steps, {np.count_nonzero(moved)} copied, and moved {sum(moved) / 1e6:.1f} MB."


EXERCISES = [
    Exercise(
        id="5.1",
        title="Frames out of a convolution, in the model",
        hints=(
            "How long is the row with its zeros? At which places in it may the kernel begin?",
            "The first place is 0, the last one leaves room for a whole kernel. Count every `stride`-th of them.",
            "Zeros stand at both ends. How often can the kernel move on from place 0? The first place counts, too.",
        ),
        solution=frames_out,
        variants=[frames_out_by_counting, frames_out_by_sliding, frames_out_by_a_convolution],
        draw=draw_row,
        edges=[(3000, 3, 1, 1), (3000, 3, 2, 1), (10, 5, 3, 0), (7, 7, 4, 0), (2, 3, 2, 2)],
        draws=40,
        trial=run_with_frames_out,
        mistakes=[
            Mistake(
                lambda frames, kernel, stride, padding: (frames + 2 * padding - kernel) // stride,
                "One is missing: the first position counts as well.",
            ),
            Mistake(
                lambda frames, kernel, stride, padding: (frames + padding - kernel) // stride + 1,
                "The zeros are at both ends.",
            ),
            Mistake(
                lambda frames, kernel, stride, padding: (frames + 2 * padding) // stride,
                "The whole kernel must fit: its last position is `kernel` frames before the end.",
            ),
            Mistake(
                lambda frames, kernel, stride, padding: math.ceil((frames + 2 * padding - kernel) / stride) + 1,
                "Round down: the kernel is never half outside.",
            ),
            Mistake(
                lambda frames, kernel, stride, padding: (frames + 2 * padding - kernel) / stride + 1,
                "Frames are whole: divide with `//`.",
            ),
            Mistake(
                lambda frames, kernel, stride, padding: frames // stride,
                "That holds for kernel 3 and padding 1, and not always there: count the places.",
            ),
            Mistake(
                lambda frames, kernel, stride, padding: (frames + 2 * padding - kernel + 1) // stride,
                "Of the places, every stride-th counts from place 0 on: a last one may stand alone.",
            ),
        ],
    ),
    Exercise(
        id="5.2",
        title="Amdahl's law",
        hints=(
            "Let the whole take 1 before. What does each of its two parts take afterwards?",
            "One part stays as it was, the other shrinks. Their sum is the new time.",
            "How many times as fast is the old time, which was 1, divided by the new one.",
        ),
        solution=amdahl,
        variants=[amdahl_in_seconds, amdahl_by_what_is_saved, amdahl_by_cases],
        draw=draw_share,
        edges=[(0.25, 2.0), (0.008, math.inf), (0.5, math.inf), (1.0, 3.0), (0.5, 1.0), (0.0, 2.0)],
        mistakes=[
            Mistake(
                lambda share, factor: 1 - share + share / factor,
                "That is the time that is left; how many times as fast is one divided by it.",
            ),
            Mistake(
                lambda share, factor: share * min(factor, 1e9) + 1 - share,
                "A part that is twice as fast takes half the time: divide its share.",
            ),
            Mistake(
                lambda share, factor: factor / share if share else math.inf,
                "The rest of the work still takes its time.",
            ),
            Mistake(
                lambda share, factor: 1 / (1 - share) if share < 1 else math.inf,
                "That is the bound for an infinitely fast part; this one has a factor.",
            ),
            Mistake(
                lambda share, factor: 1 / (1 - share / factor) if share != factor else math.inf,
                "The part that is made faster takes share / factor afterwards; the rest takes 1 - share.",
            ),
            Mistake(
                lambda share, factor: amdahl(share / 100, factor),
                "A share of 0.25 is a quarter: it is no percentage.",
            ),
        ],
    ),
    Exercise(
        id="5.3",
        title="im2col by hand, in the model",
        hints=(
            "Column t holds what output frame t needs: every channel of `kernel` neighbouring frames.",
            "Row by row it is easier: one tap of one channel sees every stride-th frame, from the tap's own place on.",
            "For each tap, slice all channels at once, as many frames as come out; then stack the slices.",
        ),
        solution=to_columns,
        variants=[to_columns_by_windows, to_columns_by_indices, to_columns_one_by_one, to_columns_with_torch],
        draw=draw_input,
        rtol=1e-6,
        edges=[(example(2, 7), 3, 1), (example(3, 9), 3, 2), (example(1, 8), 4, 3), (example(2, 6), 1, 2)],
        draws=30,
        trial=run_with_to_columns,
        mistakes=[
            Mistake(
                lambda x, kernel, stride: np.concatenate(
                    [x[:, tap : x.shape[1] - kernel + 1 + tap] for tap in range(kernel)]
                ),
                "With a stride, only every stride-th position counts.",
            ),
            Mistake(
                lambda x, kernel, stride: (
                    np.lib.stride_tricks.sliding_window_view(x, kernel, axis=1)[:, ::stride]
                    .transpose(0, 2, 1)
                    .reshape(kernel * x.shape[0], -1)
                ),
                "The rows are in another order: all channels of the first tap come first.",
            ),
            Mistake(
                lambda x, kernel, stride: to_columns(x, kernel, stride).T,
                "Transposed: each output frame is a column.",
            ),
            Mistake(
                lambda x, kernel, stride: to_columns(x[:, ::-1], kernel, stride)[:, ::-1],
                "The taps run backwards: a convolution in neural networks does not flip the kernel.",
            ),
            Mistake(
                lambda x, kernel, stride: to_columns(x, kernel, stride)[:, :-1],
                "One output frame is missing: the kernel may stand on the last frames as well.",
            ),
            Mistake(
                lambda x, kernel, stride: np.tile(to_columns(x[:1], kernel, stride), (x.shape[0], 1)),
                "Every channel has its own rows: these repeat the first.",
            ),
            Mistake(
                lambda x, kernel, stride: to_columns(np.pad(x, ((0, 0), (1, 1))), kernel, stride),
                "Without padding: the zeros around the ends are there already.",
            ),
            Mistake(to_columns_in_place, "The frames are read by others, too: leave `x` as it is."),
        ],
    ),
    Exercise(
        id="5.4",
        title="Bytes moved, in the model",
        hints=(
            "What does a copy do with each number? What does a view do with it?",
            "A copy reads every number once and writes it once. A view only indexes the same memory.",
            "Count the numbers of the array, twice for a copy; each takes `itemsize` bytes.",
        ),
        solution=bytes_moved,
        variants=[bytes_moved_by_step, bytes_moved_of_an_array, bytes_moved_by_numpy],
        draw=draw_step,
        edges=[(80, 3000, 4, True), (1280, 3000, 2, True), (384, 1500, 4, False), (1, 1, 1, True)],
        trial=run_with_bytes_moved,
        mistakes=[
            Mistake(
                lambda channels, frames, itemsize, copies: channels * frames * itemsize if copies else 0,
                "Read and write together: each number is moved twice.",
            ),
            Mistake(
                lambda channels, frames, itemsize, copies: 2 * channels * frames * itemsize,
                "A view is only another indexing of the same memory: it moves nothing.",
            ),
            Mistake(
                lambda channels, frames, itemsize, copies: 2 * channels * frames if copies else 0,
                "That counts numbers; each takes `itemsize` bytes.",
            ),
            Mistake(
                lambda channels, frames, itemsize, copies: bytes_moved(channels, frames, itemsize, not copies),
                "It is the other way round: what copies moves bytes.",
            ),
            Mistake(
                lambda channels, frames, itemsize, copies: bytes_moved(channels, frames, 4, copies),
                "A number need not take 4 bytes: in half precision it takes 2.",
            ),
            Mistake(
                lambda channels, frames, itemsize, copies: channels * frames * itemsize * (1 + copies),
                "A view does not even read: another shape is only another indexing.",
            ),
        ],
    ),
]
