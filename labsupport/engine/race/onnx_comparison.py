"""optimum's export of a checkpoint beside our own ONNX graphs: the same numbers, and what each is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labsupport.checkpoints.resolve import Checkpoint
from labsupport.engine.race.conversions import find_form
from labsupport.graphs.session import open_session
from labsupport.speech.text import Tokenizer
from labsupport.whisper.onnx_model import Whisper, load_model

CACHED = "present"  # how optimum calls the outputs that the next step takes as "past_key_values"


@dataclass(frozen=True)
class Agreement:
    """The largest difference of any number, ours against optimum's; and nodes and bytes of each, ours first.

    encoder: of encoder_out. prefill: of the logits of every token of a text. step: of those of one token more.
    """

    encoder: float
    prefill: float
    step: float
    nodes: dict[str, tuple[int, int]]
    bytes: tuple[int, int]


class OptimumWhisper:
    """optimum's two graphs, in this environment's ONNX Runtime. Arrays are NumPy's; a cache's have optimum's names."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.encoder = open_session(folder / "encoder_model.onnx")
        self.decoder = open_session(folder / "decoder_model_merged.onnx")

    def encode(self, mel: np.ndarray) -> np.ndarray:
        """(1, mels, 3000) -> (1, 1500, d_model)"""
        return self.encoder.run(["last_hidden_state"], {"input_features": mel})[0]

    def decode(
        self, tokens: np.ndarray, encoder_out: np.ndarray, past: dict[str, np.ndarray] | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(1, length) int64 after those in `past` -> (1, length, vocab) logits, and the cache for the next.

        A step gives cross-attention's keys and values back empty: those from the first call stay.
        """
        feed = {"input_ids": tokens, "encoder_hidden_states": encoder_out, "use_cache_branch": np.array([bool(past)])}
        for given in self.decoder.get_inputs():
            if given.name not in feed:
                feed[given.name] = past[given.name] if past else self.empty(given)
        names = [output.name for output in self.decoder.get_outputs()]
        found = dict(zip(names, self.decoder.run(names, feed), strict=True))
        logits = found.pop("logits")
        caches = {name.replace(CACHED, "past_key_values"): value for name, value in found.items()}
        return logits, {name: value if value.size or not past else past[name] for name, value in caches.items()}

    def empty(self, given) -> np.ndarray:
        """What the graph does not read in its first call: one place of zeros."""
        return np.zeros([size if isinstance(size, int) else 1 for size in given.shape], np.float32)


def compare_exports(checkpoint: Checkpoint, mel: np.ndarray, text: str) -> Agreement:
    """Both encoders and decoders over one window and the tokens of a text said in it.

    Args:
        checkpoint: a packaged one.
        mel: (1, mels, 3000) float32.

    Raises:
        NotAvailable: the race's environment, which makes optimum's export, is not there.
    """
    folder, tokenizer = find_form(checkpoint, "onnx").folder, Tokenizer(checkpoint.folder)
    ours, theirs = load_model(checkpoint, tokenizer), OptimumWhisper(folder)
    said = [tokenizer.sot, tokenizer.no_timestamps, *tokenizer.encode(f" {text}")]
    tokens, last = said[:-1], said[-1]
    encoder_out = ours.encode(mel)  # (1, 1500, d_model)
    logits, step = decode_ours(ours, encoder_out, tokens, last)
    their_logits, past = theirs.decode(np.array([tokens]), encoder_out)
    their_step, _ = theirs.decode(np.array([[last]]), encoder_out, past)
    return Agreement(
        largest(theirs.encode(mel), encoder_out), largest(their_logits, logits), largest(their_step[:, 0], step),
        count_nodes(ours, folder), (sum_files(ours.folder), sum_files(folder)),
    )  # fmt: skip


def decode_ours(model: Whisper, encoder_out: np.ndarray, tokens: list[int], last: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of every token, (1, length, vocab), and of one more, (1, vocab)."""
    cache = model.new_cache()
    model.project_cross_kv(encoder_out, cache)
    logits = model.prefill(np.array([tokens]), cache)
    model.select_rows(np.zeros(1, np.int64), cache)
    return logits, model.decode_step(np.array([last]), cache)


def largest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def count_nodes(ours: Whisper, folder: Path) -> dict[str, tuple[int, int]]:
    """Nodes without constants, of encoder and decoder: our prefill and loop together, and both of their branches."""
    import onnx

    def count(path: Path) -> int:
        graph = onnx.load(str(path), load_external_data=False).graph
        branches = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        return sum(node.op_type != "Constant" for part in (graph, *branches) for node in part.node)

    own = {name: count(ours.folder / f"{name}.onnx") for name in ("encoder", "prefill", "loop")}
    return {
        "encoder": (own["encoder"], count(folder / "encoder_model.onnx")),
        "decoder": (own["prefill"] + own["loop"], count(folder / "decoder_model_merged.onnx")),
    }


def sum_files(folder: Path) -> int:
    """Bytes of graphs and weights."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".onnx", ".data", ".bin"))
