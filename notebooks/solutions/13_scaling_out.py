"""Solutions of 13_scaling_out. They spoil the fun: try first."""

from __future__ import annotations

import heapq

import numpy as np

from labsupport.course.exercises import Exercise, Mistake

# --- 13.1 -------------------------------------------------------------------------------------------------------------


def still_to_do(files, rows):
    done = {row["path"] for row in rows if row["sha256"] == files.get(row["path"])}
    return [path for path in files if path not in done]


def still_to_do_by_a_loop(files, rows):
    waiting = []
    for path, sha256 in files.items():
        if not any(row["path"] == path and row["sha256"] == sha256 for row in rows):
            waiting.append(path)
    return waiting


def still_to_do_by_pairs(files, rows):
    done = [(row["path"], row["sha256"]) for row in rows]
    return [pair[0] for pair in files.items() if pair not in done]


def still_to_do_by_taking_away(files, rows):
    waiting = dict(files)
    for row in rows:
        if waiting.get(row["path"]) == row["sha256"]:
            del waiting[row["path"]]
    return list(waiting)


def draw_corpus(rng):
    """Some files, and rows for some of them: of this content, of an older one, of both, or of a file that has gone."""
    files = {f"{number}.wav": f"{rng.integers(5):x}{number}" for number in rng.permutation(int(rng.integers(1, 9)))}
    rows = []
    for path, sha256 in files.items():
        for found in ([], [sha256], ["old"], [sha256, "old"])[rng.integers(4)]:
            rows.append({"path": path, "sha256": found, "error": "no audio" if rng.random() < 0.3 else None})
    rows.append({"path": "gone.wav", "sha256": next(iter(files.values())), "error": None})
    return files, [rows[place] for place in rng.permutation(len(rows))]


def by_the_last_row(files, rows):
    hashes = {row["path"]: row["sha256"] for row in rows}
    return [path for path in files if hashes.get(path) != files[path]]


# --- 13.2 -------------------------------------------------------------------------------------------------------------


def summand(x, first, second, activation, rank, processes):
    share = first.shape[1] // processes
    part = slice(rank * share, (rank + 1) * share)
    return activation(x @ first[:, part]) @ second[part]


def summand_by_splitting(x, first, second, activation, rank, processes):
    columns, rows = np.split(first, processes, axis=1), np.split(second, processes, axis=0)
    return activation(x @ columns[rank]) @ rows[rank]


def summand_by_masking(x, first, second, activation, rank, processes):
    owner = np.arange(first.shape[1]) // (first.shape[1] // processes)
    hidden = activation(x @ first) * (owner == rank)
    return hidden @ second


def summand_by_reshaping(x, first, second, activation, rank, processes):
    columns = first.reshape(first.shape[0], processes, -1)[:, rank]
    rows = second.reshape(processes, -1, second.shape[1])[rank]
    return np.dot(activation(np.dot(x, columns)), rows)


def draw_net(rng):
    processes, share, d = int(rng.integers(1, 5)), int(rng.integers(1, 5)), int(rng.integers(1, 6))
    x = rng.standard_normal((int(rng.integers(1, 4)), d))
    first, second = rng.standard_normal((d, processes * share)), rng.standard_normal((processes * share, d))
    activation = (np.tanh, np.square, np.abs)[rng.integers(3)]
    return x, first, second, activation, int(rng.integers(processes)), processes


def run_with_summands(answer):
    """tiny.en, whose encoder's feed-forward nets are each added up from the answers of two processes."""
    from labsupport.course import trials

    def run(layers):
        return [divide(layer, answer) for layer in layers]

    return trials.check_tokens(trials.find_tokens_with_encoder(run=run))


def divide(layer, part):
    """The layer, as a function; biases are a further row of the first matrix, for a further 1 in each row of x."""
    from labsupport.arrays import xp

    weights = [xp.to_numpy(each) for each in (layer.fc1.weight, layer.fc1.bias, layer.fc2.weight, layer.fc2.bias)]
    first, second = np.vstack([weights[0].T, weights[1]]), weights[2].T  # (d + 1, ffn), (ffn, d)

    def forward(x):
        h = layer.self_attn_layer_norm(x)
        x = x + layer.self_attn(h, layer.self_attn.project_kv(h))
        h = xp.to_numpy(layer.final_layer_norm(x))[0]  # (1500, d)
        h = np.hstack([h, np.ones_like(h[:, :1])])
        added = sum(np.asarray(part(h, first, second, gelu, rank, 2), np.float32) for rank in range(2))
        return x + xp.asarray(added[None], like=x) + layer.fc2.bias

    return forward


def gelu(x):
    from scipy.special import erf

    return (0.5 * x * (1 + erf(x / np.sqrt(2)))).astype(np.float32)


# --- 13.3 -------------------------------------------------------------------------------------------------------------


def waits(arrivals, services, workers):
    free, found = [0.0] * workers, []
    for arrival, service in zip(arrivals, services, strict=True):
        begin = max(arrival, heapq.heappop(free))
        heapq.heappush(free, begin + service)
        found.append(begin - arrival)
    return np.array(found)


def waits_by_searching(arrivals, services, workers):
    free = np.zeros(workers)
    found = np.zeros(len(arrivals))
    for i in range(len(arrivals)):
        worker = np.argmin(free)
        begin = max(arrivals[i], free[worker])
        found[i] = begin - arrivals[i]
        free[worker] = begin + services[i]
    return found


def waits_by_sorting(arrivals, services, workers):
    free, found = [0.0] * workers, []
    for arrival, service in zip(arrivals, services, strict=True):
        found.append(max(0.0, free[0] - arrival))
        free = sorted([*free[1:], arrival + found[-1] + service])
    return np.array(found)


def waits_by_waiting_time(arrivals, services, workers):
    """Kiefer and Wolfowitz: how much work each worker still has, which shrinks until the next arrival."""
    left, before, found = np.zeros(workers), 0.0, []
    for arrival, service in zip(arrivals, services, strict=True):
        left = np.sort(np.maximum(left - (arrival - before), 0))
        found.append(left[0])
        left[0] += service
        before = arrival
    return np.array(found)


def draw_queue(rng):
    files, workers = int(rng.integers(1, 15)), int(rng.integers(1, 4))
    return np.cumsum(rng.exponential(1.0, files)), rng.exponential(workers * 1.2, files), workers


def mean_wait(arrivals, services, workers):
    return np.full(len(arrivals), waits(arrivals, services, workers).mean())


def in_turns(arrivals, services, workers):
    free, found = [0.0] * workers, []
    for i, (arrival, service) in enumerate(zip(arrivals, services, strict=True)):
        begin = max(arrival, free[i % workers])
        free[i % workers] = begin + service
        found.append(begin - arrival)
    return np.array(found)


def one_fast_worker(arrivals, services, workers):
    return waits(arrivals, np.asarray(services) / workers, 1)


def negative_waits(arrivals, services, workers):
    free, found = [0.0] * workers, []
    for arrival, service in zip(arrivals, services, strict=True):
        free.sort()
        found.append(free[0] - arrival)
        free[0] = max(arrival, free[0]) + service
    return np.array(found)


def busy_from_arrival(arrivals, services, workers):
    free, found = [0.0] * workers, []
    for arrival, service in zip(arrivals, services, strict=True):
        free.sort()
        found.append(max(0.0, free[0] - arrival))
        free[0] = arrival + service
    return np.array(found)


EXERCISES = [
    Exercise(
        id="13.1",
        title="What a resumed run still has to do",
        hints=(
            "A row is worth something only as long as its file is what it was. What says so?",
            "A file is done where a row has its path and its hash. One that cannot be read stays so.",
            "Collect the paths of rows whose sha256 is that of `files`; give the others, in the order of `files`.",
        ),
        solution=still_to_do,
        variants=[still_to_do_by_a_loop, still_to_do_by_pairs, still_to_do_by_taking_away],
        draw=draw_corpus,
        edges=[
            ({}, []),
            ({"a.wav": "1", "b.wav": "2"}, []),
            ({"a.wav": "1"}, [{"path": "a.wav", "sha256": "1", "error": "no audio"}]),
            ({"a.wav": "1", "b.wav": "1"}, [{"path": "a.wav", "sha256": "1", "error": None}]),
            ({"a.wav": "2"}, [{"path": "a.wav", "sha256": each, "error": None} for each in ("1", "2", "3")]),
        ],
        mistakes=[
            Mistake(
                lambda files, rows: [path for path in files if path not in {row["path"] for row in rows}],
                "A file that has changed since has a row, but not of this content.",
            ),
            Mistake(
                lambda files, rows: [path for path in files if files[path] not in {row["sha256"] for row in rows}],
                "Two files may have one content: each needs its own row, so compare the path as well.",
            ),
            Mistake(
                lambda files, rows: still_to_do(files, [row for row in rows if row["error"] is None]),
                "A file that cannot be read will not be read the next time either: its row is done.",
            ),
            Mistake(
                by_the_last_row,
                "A file may have several rows, of this content and of older ones: one that fits is enough.",
            ),
            Mistake(
                lambda files, rows: sorted(still_to_do(files, rows), reverse=True),
                "Give them in the order of `files`.",
            ),
            Mistake(
                lambda files, rows: [path for path in files if path not in still_to_do(files, rows)],
                "These are the ones that are done: give the others.",
            ),
            Mistake(
                lambda files, rows: [*still_to_do(files, rows), *(r["path"] for r in rows if r["path"] not in files)],
                "A file that has gone cannot be transcribed.",
            ),
        ],
    ),
    Exercise(
        id="13.2",
        title="One process's summand of a feed-forward net, in the model",
        hints=(
            "Which part of the hidden values can a process compute from all of x, with nothing sent?",
            "Columns of the first matrix give some hidden values; the same rows of the second make a summand of them.",
            "With share = columns // processes, take columns and rows from rank * share to (rank + 1) * share.",
        ),
        solution=summand,
        variants=[summand_by_splitting, summand_by_masking, summand_by_reshaping],
        draw=draw_net,
        trial=run_with_summands,
        mistakes=[
            Mistake(
                lambda x, first, second, activation, rank, processes: activation(x @ first) @ second,
                "That is the whole net: added up over the processes it comes out several times.",
            ),
            Mistake(
                lambda x, first, second, activation, rank, processes: activation(x @ first) @ second / processes,
                "The sum would be right, but each process computed everything: divide the matrices, not the result.",
            ),
            Mistake(
                lambda x, first, second, activation, rank, processes: activation(
                    summand(x, first, second, lambda hidden: hidden, rank, processes)
                ),
                "The activation stands between the two matrices, not after them.",
            ),
            Mistake(
                lambda x, first, second, activation, rank, processes: summand(
                    x, first, second, lambda hidden: hidden, rank, processes
                ),
                "Between the two matrices stands the activation.",
            ),
            Mistake(
                lambda x, first, second, activation, rank, processes: (
                    activation(x @ first[:, rank::processes]) @ second[rank::processes]
                ),
                "That divides well, but this process takes neighbouring columns: from rank * share on.",
            ),
            Mistake(
                lambda x, first, second, activation, rank, processes: summand(
                    x, first, second, activation, (rank + 1) % processes, processes
                ),
                "Ranks begin at 0: that is another process's share.",
            ),
            Mistake(
                lambda x, first, second, activation, rank, processes: sum(
                    summand(x, first, second, activation, each, processes) for each in range(rank + 1)
                ),
                "Give this process's summand alone; the all-reduce adds them up.",
            ),
        ],
    ),
    Exercise(
        id="13.3",
        title="How long each file waits",
        hints=(
            "Note for each worker when it is free again. Which worker takes the next file?",
            "The one that is free first. It begins when both are there: the file and the worker.",
            "begin = max(arrival, earliest free); the wait is begin - arrival; that worker is free at begin + service.",
        ),
        solution=waits,
        variants=[waits_by_searching, waits_by_sorting, waits_by_waiting_time],
        draw=draw_queue,
        edges=[(np.array([0.0, 0.0, 0.0]), np.array([2.0, 1.0, 1.0]), 2), (np.array([1.0]), np.array([5.0]), 1)],
        mistakes=[
            Mistake(in_turns, "Workers do not take turns: the next file goes to the one that is free first."),
            Mistake(one_fast_worker, "Two workers are not one of twice the speed: a file takes as long as before."),
            Mistake(negative_waits, "A worker that is free before the file comes makes it wait 0, not less."),
            Mistake(busy_from_arrival, "A worker begins a file after its wait, so it is busy until begin + service."),
            Mistake(
                lambda arrivals, services, workers: waits(arrivals, services, workers) + services,
                "That is when each is done: the wait ends where the service begins.",
            ),
            Mistake(mean_wait, "Give the wait of each file, not their mean."),
        ],
    ),
]
