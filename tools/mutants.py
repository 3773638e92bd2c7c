"""Plants faults in the package, one at a time, and shows that its tests find each of them.

    .venv/bin/python tools/mutants.py            all of them, about five minutes
    .venv/bin/python tools/mutants.py NAME ...   some

A mutant is a line of `MUTANTS`. It is planted in a copy of the repository; the tests named beside it must then fail.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("labsupport", "tests", "pyproject.toml")  # the rest is linked: tests read it, no mutant changes it
LINKED = ("data", "notebooks", "README.md", "uv.lock", "lab", "tools")
PASSED, FAILED = 0, 1  # pytest's exit codes; any other says that the tests did not run


@dataclass(frozen=True)
class Mutant:
    """A planted fault: in `file`, the text `right`, which stands there once, becomes `wrong`; `tests` must fail."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str
    backend: str = "torch"


MUTANTS = (
    Mutant("model: no residual around cross-attention", "whisper/torch_model.py",
           "x = x + self.encoder_attn(h, cross_kv).reshape(x.shape)",
           "x = self.encoder_attn(h, cross_kv).reshape(x.shape)",
           "tests/whisper/test_torch_model.py"),
    Mutant("twin: LayerNorm with MindSpore's epsilon", "whisper/mindspore_model.py",
           "epsilon=1e-5)  # torch's", "epsilon=1e-2)  # torch's",
           "tests/whisper/test_mindspore_model.py", "mindspore"),
    Mutant("twin: the padding of a text stays in its cache", "whisper/mindspore_model.py",
           "[part[:, :, :new] for part in self_kv]", "list(self_kv)",
           "tests/whisper/test_mindspore_model.py", "mindspore"),
    Mutant("cache: the newest token is hidden", "optim/kv_cache.py",
           "xp.indices(capacity, position)[None, :] <= position[:, None]",
           "xp.indices(capacity, position)[None, :] < position[:, None]", "tests/optim/test_kv_cache.py"),
    Mutant("cache: rows move the wrong way", "optim/kv_cache.py",
           "(xp.move_rows(k, rows[to], to, stop), xp.move_rows(v, rows[to], to, stop))",
           "(xp.move_rows(k, to, rows[to], stop), xp.move_rows(v, to, rows[to], stop))",
           "tests/optim/test_kv_cache.py"),
    Mutant("cache: beams repeat their window", "optim/kv_cache.py",
           "return distinct if shared else windows", "return windows", "tests/optim/test_kv_cache.py"),
    Mutant("attention: tiles are not rescaled", "optim/attention.py",
           "row_sum = row_sum * rescale + xp.sum(weights, axis=-1)", "row_sum = row_sum + xp.sum(weights, axis=-1)",
           "tests/optim/test_attention.py"),
    Mutant("conv1d: kernel and channels change places", "optim/conv1d.py",
           "weight.swapaxes(1, 2).reshape(out, kernel * channels)", "weight.reshape(out, kernel * channels)",
           "tests/optim/test_conv1d.py"),
    Mutant("filters: a timestamp may go back", "whisper/token_filters.py",
           "row[: rules.eot] = -np.inf", "pass", "tests/whisper/test_token_filters.py"),
    Mutant("search: long texts are not favoured by their mean", "whisper/search.py",
           "(totals[best[i]] / len(grown[i]), grown[i])", "(totals[best[i]], grown[i])",
           "tests/whisper/test_search.py"),
    Mutant("windows: seek counts timestamps as frames", "whisper/windows.py",
           "stamp[ends[-1] - 1] * FRAMES_PER_TIMESTAMP", "stamp[ends[-1] - 1]", "tests/whisper/test_windows.py"),
    Mutant("guards: all windows are decoded again where one fails", "whisper/guards.py",
           "encoder_out[i : i + 1]", "encoder_out", "tests/whisper/test_guards.py"),
    Mutant("guards: an unsure text is given to the next window", "whisper/guards.py",
           "if not self.guards.condition_on_previous_text or unsure:",
           "if not self.guards.condition_on_previous_text:", "tests/whisper/test_guards.py"),
    Mutant("search: the least likely draw is taken", "whisper/search.py",
           "reshape(-1, best_of).argmax(-1)", "reshape(-1, best_of).argmin(-1)", "tests/whisper/test_search.py"),
    Mutant("recording: times are those without the silence", "speech/recording.py",
           "frame = span.start + spoken", "frame = spoken", "tests/speech/test_recording.py"),
    Mutant("detector: the network forgets what came before a block", "speech/segments.py",
           "self._buffer[:CONTEXT] = sound[-CONTEXT:]", "self._buffer[:CONTEXT] = 0", "tests/speech/test_segments.py"),
    Mutant("graph pass: a Tile goes though the other operand is as short", "graphs/passes/tile.py",
           "shape[axis] == 1 and other[axis] == repeats[axis]", "shape[axis] == 1",
           "tests/graphs/passes/test_tile.py"),
    Mutant("quantisation: the halves of a byte change places", "optim/quantization.py",
           "nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)", "nibbles[:, 1::2] | (nibbles[:, 0::2] << 4)",
           "tests/optim/test_quantization.py"),
    Mutant("verdict: noise counts as a gain", "results/verdicts.py",
           "shown = low > claim.neutral if claim.figure > claim.neutral else high < claim.neutral",
           "shown = row.number > claim.neutral", "tests/results/test_verdicts.py"),
    Mutant("verdict: another setting reproduces", "results/verdicts.py",
           "return SAME_DIRECTION if found == REPRODUCED and differences else found", "return found",
           "tests/results/test_verdicts.py"),
    Mutant("verdict: more than the article's figure reproduces it", "results/verdicts.py",
           "return low <= claim.figure + room and high", "return high", "tests/results/test_verdicts.py"),
    Mutant("growth: a form that is clearly beaten stays", "results/growth.py",
           "DECISIVE = 4.0", "DECISIVE = 400.0", "tests/results/test_growth.py"),
    Mutant("check: an exercise's answer of another shape is right", "course/comparison.py",
           "if right.shape != value.shape:", "if False:", "tests/course/test_comparison.py"),
    Mutant("check: an answer may change its argument", "course/calls.py",
           "if difference(before, left, **EXACT):", "if False:", "tests/course/test_calls.py"),
    Mutant("check: an answer may depend on the calls before", "course/calls.py",
           "if difference(first[number].value, after.value) is not None", "if False", "tests/course/test_calls.py"),
    Mutant("check: the model's tokens do not count", "course/trials.py",
           "if found != right:", "if False:", "tests/course/test_trials.py"),
    Mutant("corpus: a file that has changed counts as done", "scaling/parts.py",
           'return hash_file(Path(file)) == state["sha256"]', "return True", "tests/scaling/test_parts.py"),
    Mutant("corpus: what failed once is never tried again", "scaling/parts.py",
           'state["error_kind"] not in {None, *PERMANENT} or not is_same_file', "not is_same_file",
           "tests/scaling/test_parts.py"),
    Mutant("corpus: a file that could not be read counts as done for ever", "scaling/parts.py",
           'if state["sha256"] is None:', "if False:", "tests/scaling/test_parts.py"),
    Mutant("corpus: options are judged at the first file that can be read", "scaling/worker.py",
           "self.work.find_transcriber()", "pass", "tests/scaling/test_worker.py"),
    Mutant("tensor parallel: the output matrix is divided by columns", "scaling/tensor_parallel.py",
           "F.linear(out, attention.out_proj.weight[:, columns])",
           "F.linear(out, attention.out_proj.weight[columns].T)",
           "tests/scaling/test_tensor_parallel.py"),
    Mutant("waiting: a worker is busy from the arrival on", "scaling/waiting.py",
           "heapq.heapreplace(free, begin + service)", "heapq.heapreplace(free, arrival + service)",
           "tests/scaling/test_waiting.py"),
    Mutant("race: who leaves words out in a row may win", "engine/race/judging.py",
           "if found.lost > bar.lost + IN_A_ROW:", "if False:", "tests/engine/race/test_judging.py"),
    Mutant("race: a skipper is ranked", "engine/race/results.py",
           "(each for each in self.results if each.fault is None), key", "self.results, key",
           "tests/engine/race/test_results.py"),
    Mutant("race: one honest round is enough", "engine/race/results.py",
           "for answer in contest.answers[name]}", "for answer in contest.answers[name][:1]}",
           "tests/engine/race/test_results.py"),
    Mutant("whisper.cpp's weights: eight bits without their scale", "engine/race/ggml.py",
           'blocks["scale"], blocks["codes"] = scales[:, 0], codes', 'blocks["codes"] = codes',
           "tests/engine/race/test_ggml.py"),
)  # fmt: skip


def plant(mutant: Mutant, folder: Path) -> None:
    """Copies the repository to `folder`, with the fault in it.

    Raises:
        ValueError: the right text does not stand in the file exactly once.
    """
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    path = folder / "labsupport" / mutant.file
    path.write_text(change(path.read_text(encoding="utf-8"), mutant), encoding="utf-8")


def change(text: str, mutant: Mutant) -> str:
    """The text with the fault; raises ValueError as `plant`."""
    if text.count(mutant.right) != 1:
        raise ValueError(f"{mutant.name}: {mutant.right!r} stands {text.count(mutant.right)} times in {mutant.file}")
    return text.replace(mutant.right, mutant.wrong)


def run_tests(mutant: Mutant) -> int:
    """pytest's exit code for the mutant's tests, in a copy that has the fault."""
    with tempfile.TemporaryDirectory() as folder:
        plant(mutant, Path(folder))
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutant.tests]
        environment = os.environ | {"LAB_BACKEND": mutant.backend, "PYTHONPATH": folder}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plant faults; each must be found by the tests beside it.")
    parser.add_argument("names", nargs="*", help="parts of the names of mutants; all when none is given")
    names = parser.parse_args(None if arguments is None else list(arguments)).names
    chosen = [mutant for mutant in MUTANTS if not names or any(name in mutant.name for name in names)]
    missed = 0
    for mutant in chosen:
        code = run_tests(mutant)
        result = {FAILED: "found", PASSED: "MISSED"}.get(code, f"tests did not run (exit code {code})")
        missed += code != FAILED
        print(f"{result:8s} {mutant.name} ({mutant.tests})", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} faults found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
