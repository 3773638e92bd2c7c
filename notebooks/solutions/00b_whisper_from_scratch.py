"""Solutions of the exercises in 00b_whisper_from_scratch. They spoil the fun: try first."""

from __future__ import annotations

import numpy as np

from labsupport.course.exercises import Exercise, Mistake

# --- 00b.1 ------------------------------------------------------------------------------------------------------------


def sinusoids(length, width):
    half = width // 2
    speeds = np.exp(-np.log(10_000) / (half - 1) * np.arange(half))
    angles = np.arange(length)[:, None] * speeds
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sinusoids_by_powers(length, width):
    i = np.arange(width // 2)
    angles = np.outer(np.arange(length), 10_000.0 ** (-i / (width // 2 - 1)))
    return np.hstack((np.sin(angles), np.cos(angles)))


def sinusoids_geometric(length, width):
    table = np.zeros((length, width))
    for i, speed in enumerate(np.geomspace(1, 1e-4, width // 2)):
        for position in range(length):
            table[position, i] = np.sin(position * speed)
            table[position, width // 2 + i] = np.cos(position * speed)
    return table


def sinusoids_on_a_circle(length, width):
    turns = np.exp(1j * np.arange(length)[:, None] * np.logspace(0, -4, width // 2))
    return np.concatenate([turns.imag, turns.real], axis=-1)


def interleaved(length, width):
    table = sinusoids(length, width)
    return np.stack([table[:, : width // 2], table[:, width // 2 :]], axis=2).reshape(length, width)


def cosines_first(length, width):
    return np.roll(sinusoids(length, width), width // 2, axis=1)


def never_the_slowest(length, width):
    half = width // 2
    angles = np.arange(length)[:, None] * np.exp(-np.log(10_000) / half * np.arange(half))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def from_one(length, width):
    return sinusoids(length + 1, width)[1:]


def in_degrees(length, width):
    half = width // 2
    angles = np.radians(np.arange(length)[:, None] * np.geomspace(1, 1e-4, half))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def ever_faster(length, width):
    angles = np.arange(length)[:, None] * np.geomspace(1, 1e4, width // 2)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def draw_table(rng):
    return int(rng.integers(1, 20)), 2 * int(rng.integers(2, 12))


def run_sinusoids(answer):
    """tiny.en, whose encoder adds the answer's table in place of the one in its weights."""
    from labsupport import whisper
    from labsupport.arrays import xp
    from labsupport.course import trials

    transcriber = whisper.load(trials.MODEL)
    weight = transcriber.model.encoder.embed_positions.weight
    table = xp.asarray(np.asarray(answer(*weight.shape), np.float32), like=weight)  # (1500, 384)
    write = weight.data.copy_ if hasattr(weight, "copy_") else weight.set_data  # torch's, MindSpore's
    write(table)
    return trials.check_tokens(trials.find_tokens(transcriber))


# --- 00b.2 ------------------------------------------------------------------------------------------------------------


def causal_mask(new, past):
    return np.triu(np.full((new, past + new), -np.inf), past + 1)


def causal_mask_by_positions(new, past):
    queries, keys = past + np.arange(new), np.arange(past + new)
    return np.where(keys[None] <= queries[:, None], 0.0, -np.inf)


def causal_mask_row_by_row(new, past):
    mask = np.full((new, past + new), -np.inf)
    for row in range(new):
        mask[row, : past + row + 1] = 0
    return mask


def causal_mask_in_two_parts(new, past):
    square = np.zeros((new, new))
    square[np.triu_indices(new, 1)] = -np.inf
    return np.concatenate([np.zeros((new, past)), square], axis=1)


def draw_lengths(rng):
    return int(rng.integers(1, 9)), int(rng.integers(0, 9))


# --- 00b.3 ------------------------------------------------------------------------------------------------------------


def join_pieces(pieces):
    return b"".join(pieces).decode("utf-8", errors="replace")


def join_pieces_one_by_one(pieces):
    whole = bytearray()
    for piece in pieces:
        whole += piece
    return str(bytes(whole), "utf-8", "replace")


def join_pieces_with_a_decoder(pieces):
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return "".join([*map(decoder.decode, pieces), decoder.decode(b"", final=True)])


def join_pieces_byte_by_byte(pieces):
    return bytes(byte for piece in pieces for byte in piece).decode(errors="replace")


def piece_by_piece(pieces):
    return "".join(piece.decode("utf-8", errors="replace") for piece in pieces)


def without_broken_letters(pieces):
    return b"".join(pieces).decode("utf-8", errors="ignore")


def draw_pieces(rng):
    """A text of letters of one to four bytes, cut anywhere; sometimes its last letter is not whole."""
    letters = rng.choice(list("abc é中文ñ🙂дя ?"), int(rng.integers(0, 12)))
    whole = "".join(letters).encode()
    whole = whole[: len(whole) - int(rng.integers(0, 2))]
    cuts = np.sort(rng.integers(0, len(whole) + 1, int(rng.integers(0, 6))))
    return ([whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)],)


EXERCISES = [
    Exercise(
        id="00b.1",
        title="Vectors that tell a place",
        hints=(
            "A table with a row for each place. Its left half are sines, its right half cosines of the same angles.",
            "Column i turns with a speed of its own; the angle is the place times that speed.",
            "The speeds are `width // 2` numbers from 1 down to 1e-4, each the same factor smaller: `np.geomspace`.",
        ),
        solution=sinusoids,
        variants=[sinusoids_by_powers, sinusoids_geometric, sinusoids_on_a_circle],
        draw=draw_table,
        edges=[(1, 4), (3, 6)],
        atol=1e-6,
        trial=run_sinusoids,
        mistakes=[
            Mistake(interleaved, "All sines come first, then all cosines; they do not take turns."),
            Mistake(cosines_first, "The sines are the left half, the cosines the right one."),
            Mistake(never_the_slowest, "The last speed is 1e-4 itself: divide by one less than the number of speeds."),
            Mistake(from_one, "Places count from 0: the first row is that of angle 0."),
            Mistake(in_degrees, "Angles are in radians, as `np.sin` takes them."),
            Mistake(ever_faster, "The speeds fall from 1 to 1e-4; the first column turns fastest."),
        ],
    ),
    Exercise(
        id="00b.2",
        title="A mask for tokens that come after others",
        hints=(
            "Row i is the token at place past + i. Which keys may it see? Its own, too.",
            "Key k is hidden from row i where k > past + i.",
            "`np.triu(a, d)` zeroes what lies under the diagonal number d.",
        ),
        solution=causal_mask,
        variants=[causal_mask_by_positions, causal_mask_row_by_row, causal_mask_in_two_parts],
        draw=draw_lengths,
        edges=[(1, 0), (1, 5), (4, 0)],
        mistakes=[
            Mistake(
                lambda new, past: np.triu(np.full((new, past + new), -np.inf), 1),
                "That forgets that `past` tokens came before: the first new token sees them all.",
            ),
            Mistake(
                lambda new, past: np.triu(np.full((new, past + new), -np.inf), past),
                "A token may look at itself, too: else the first one would see nothing.",
            ),
            Mistake(
                lambda new, past: np.tril(np.full((new, past + new), -np.inf), past),
                "That hides what was said and shows what comes: the other triangle.",
            ),
            Mistake(
                lambda new, past: np.triu(np.full((new, new), -np.inf), 1),
                "The keys are `past + new`: those of the cache come first.",
            ),
            Mistake(
                lambda new, past: np.triu(np.ones((new, past + new)), past + 1),
                "The mask is added to scores: minus infinity where a key is hidden, not 1.",
            ),
            Mistake(
                lambda new, past: np.triu(np.full((new, past + new), -np.inf), past + 2),
                "One too many: the token right after it is visible, and it would copy that.",
            ),
        ],
    ),
    Exercise(
        id="00b.3",
        title="Bytes of tokens to letters",
        hints=(
            "When is a letter whole: in each piece, or once all pieces lie side by side?",
            "Join the bytes first, then decode once. What joins a list of strings joins one of `bytes`, too.",
            'Decoding takes `errors="replace"` for bytes that are no letter.',
        ),
        solution=join_pieces,
        variants=[join_pieces_one_by_one, join_pieces_with_a_decoder, join_pieces_byte_by_byte],
        draw=draw_pieces,
        edges=[([],), ([b"caf", b"\xc3", b"\xa9"],), ([b" a", b"\xe4\xb8"],)],
        mistakes=[
            Mistake(piece_by_piece, "A letter that is cut in two must be joined before it is decoded."),
            Mistake(without_broken_letters, 'What is no letter must be seen: `errors="replace"`, not "ignore".'),
            Mistake(
                lambda pieces: b"".join(pieces).decode("latin-1"),
                "Latin-1 takes each byte for a letter; the text is UTF-8, with up to four bytes a letter.",
            ),
            Mistake(
                lambda pieces: b" ".join(pieces).decode("utf-8", errors="replace"),
                "Nothing comes between the pieces: a token that begins a word has its space in it.",
            ),
            Mistake(
                lambda pieces: b"".join(pieces).decode("utf-8", errors="replace").strip(),
                "The space at the beginning belongs to the text.",
            ),
            Mistake(lambda pieces: b"".join(pieces), "The result is a text, not bytes: decode it."),
        ],
    ),
]
