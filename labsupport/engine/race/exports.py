"""The checkpoint in other engines' formats, by the engines' own tools: runs in the race's environment, in a process."""

from __future__ import annotations

import sys
from pathlib import Path

TASK = "automatic-speech-recognition-with-past"


def main(form: str, source: str, target: str) -> None:
    """Fills the empty folder `target` with the checkpoint in this form; `source` is what it is made from."""
    write = {
        "onnx": write_onnx, "openvino-int8": write_openvino, "openvino-fp16": write_openvino,
        "sherpa": write_sherpa, "sherpa-int8": write_sherpa_int8,
    }[form]  # fmt: skip
    write(form, Path(source), Path(target))


def write_onnx(form: str, source: Path, target: Path) -> None:
    """By optimum: an encoder, and a decoder that takes a cache or none."""
    from optimum.exporters.onnx import main_export  # type: ignore[import-not-found]

    main_export(str(source), target, task=TASK, local_files_only=True, do_validation=False)
    for name in ("decoder_model.onnx", "decoder_with_past_model.onnx"):  # the merged one is both
        (target / name).unlink(missing_ok=True)


def write_openvino(form: str, source: Path, target: Path) -> None:
    """By optimum-intel, with a cache inside the decoder, and the tokenizer as a graph: what openvino-genai reads."""
    from optimum.commands.optimum_cli import main as optimum_cli  # type: ignore[import-not-found]

    arguments = ["--model", str(source), "--task", TASK, "--weight-format", form.removeprefix("openvino-")]
    run_cli(optimum_cli, "export", "openvino", *arguments, str(target))


def run_cli(command, *arguments: str) -> None:
    sys.argv = ["optimum-cli", *arguments]
    command()


def write_sherpa(form: str, source: Path, target: Path) -> None:
    """`source`: a file of openai-whisper's."""
    from labsupport.engine.race.sherpa_export import export

    export(source, target)


def write_sherpa_int8(form: str, source: Path, target: Path) -> None:
    """As sherpa-onnx's own script: int8 weights of the matrix products, inputs quantised as they come.

    source: a folder of `write_sherpa`.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for name in ("encoder.onnx", "decoder.onnx"):
        quantize_dynamic(source / name, target / name, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
    (target / "tokens.txt").write_bytes((source / "tokens.txt").read_bytes())
