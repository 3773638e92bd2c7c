"""The engines that people use, each opened from its own format: greedy, one temperature, English, no text from before.

Each opener takes the model's folder, how many threads, and whether the model is multilingual.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labsupport.engine.race.running import Answer, Clips, Running, cut_at_quiet, in_batches

if TYPE_CHECKING:
    from whisper.decoding import DecodingResult  # type: ignore[import-not-found]

RATE = 16_000
WINDOW = 30 * RATE  # samples of Whisper's window


# --- transformers, and optimum's models, which generate by transformers -----------------------------------------------


def open_transformers(
    folder: Path, threads: int, multilingual: bool, compiled: bool = False, batch: int = 1
) -> Running:
    """compiled: with the static cache, and its forward pass by torch.compile, as transformers' guide has it."""
    import torch
    from transformers import WhisperForConditionalGeneration

    torch.set_num_threads(threads)
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    if compiled:
        model.generation_config.cache_implementation = "static"
        model.forward = torch.compile(model.forward, fullgraph=True)
    return run_generate(model, folder, multilingual, batch)


def open_optimum(folder: Path, threads: int, multilingual: bool, batch: int = 1) -> Running:
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSpeechSeq2Seq  # type: ignore[import-not-found]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = ORTModelForSpeechSeq2Seq.from_pretrained(
        folder, session_options=options, provider="CPUExecutionProvider", use_merged=True
    )
    return run_generate(model, folder, multilingual, batch)


def run_generate(model: Any, folder: Path, multilingual: bool, batch: int) -> Running:
    import torch
    from transformers import WhisperProcessor

    processor: Any = WhisperProcessor.from_pretrained(folder)

    def transcribe(clips: Clips) -> Answer:
        texts: list[str] = []
        tokens = 0
        with torch.inference_mode():
            for group in in_batches(clips, batch):
                is_long = max(map(len, group)) > WINDOW
                ids = model.generate(
                    **extract_features(processor, group, is_long), **choose_options(multilingual, is_long)
                )
                tokens += int((ids != processor.tokenizer.pad_token_id).sum())
                texts += processor.batch_decode(ids, skip_special_tokens=True)
        return Answer(texts, tokens)

    return Running(transcribe)


def extract_features(processor: Any, clips: Clips, is_long: bool) -> dict[str, Any]:
    options = {"truncation": False, "padding": "longest", "return_attention_mask": True} if is_long else {}
    return dict(processor(list(clips), sampling_rate=RATE, return_tensors="pt", **options))


def choose_options(multilingual: bool, is_long: bool) -> dict[str, Any]:
    """What `generate` takes. A recording of more than a window needs timestamps: by them it goes on."""
    options: dict[str, Any] = {"do_sample": False, "num_beams": 1, "return_timestamps": is_long}
    if is_long:
        options |= {"temperature": 0.0, "condition_on_prev_tokens": False}
    return options | ({"language": "en", "task": "transcribe"} if multilingual else {})


# --- openai-whisper ---------------------------------------------------------------------------------------------------


def open_openai(folder: Path, threads: int, multilingual: bool, batch: int = 1) -> Running:
    import torch
    import whisper  # type: ignore[import-not-found]

    torch.set_num_threads(threads)
    model = whisper.load_model(str(folder / "model.pt"), device="cpu")
    decoding = whisper.DecodingOptions(language="en", without_timestamps=True, fp16=False)
    guards = dict.fromkeys(("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold"))
    options = {"language": "en", "temperature": 0.0, "condition_on_previous_text": False, "fp16": False, **guards}

    def decode(clips: Clips) -> list[DecodingResult]:
        padded = [whisper.pad_or_trim(clip) for clip in clips]
        mels = torch.stack([whisper.log_mel_spectrogram(clip, model.dims.n_mels) for clip in padded])
        return whisper.decode(model, mels, decoding)  # (clips, mels, 3000)

    def transcribe(clips: Clips) -> Answer:
        if batch > 1 and max(map(len, clips)) <= WINDOW:
            found = [each for group in in_batches(clips, batch) for each in decode(group)]
            return Answer([each.text for each in found], sum(len(each.tokens) for each in found))
        transcripts = [model.transcribe(clip, **options) for clip in clips]
        tokens = sum(len(segment["tokens"]) for each in transcripts for segment in each["segments"])
        return Answer([each["text"] for each in transcripts], tokens)

    return Running(transcribe)


# --- faster-whisper ---------------------------------------------------------------------------------------------------


def open_faster_whisper(folder: Path, threads: int, multilingual: bool, dtype: str, batch: int = 1) -> Running:
    """With a batch, its own pipeline, which cuts a recording at pauses by voice activity detection."""
    import faster_whisper

    model = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type=dtype, cpu_threads=threads)
    pipeline = faster_whisper.BatchedInferencePipeline(model)
    guards = dict.fromkeys(("compression_ratio_threshold", "log_prob_threshold", "no_speech_threshold"))
    options = {"language": "en", "beam_size": 1, "temperature": 0.0, "condition_on_previous_text": False, **guards}

    def transcribe(clips: Clips) -> Answer:
        if batch > 1 and len(clips) > 1:
            return transcribe_together(clips)
        found = []
        for clip in clips:
            segments, _ = (
                pipeline.transcribe(clip, batch_size=batch, **options)
                if batch > 1
                else model.transcribe(clip, **options)
            )
            found.append(list(segments))
        return Answer(["".join(each.text for each in segments) for segments in found], count([*chain(*found)]))

    def transcribe_together(clips: Clips) -> Answer:
        """Many clips in one recording, with the times at which each begins and ends: a window for each."""
        ends = np.cumsum([len(clip) for clip in clips]) / RATE
        starts = [0.0, *ends[:-1]]
        places = [{"start": float(start), "end": float(end)} for start, end in zip(starts, ends, strict=True)]
        segments = list(pipeline.transcribe(
            np.concatenate(clips), batch_size=batch, vad_filter=False, clip_timestamps=places, **options
        )[0])  # fmt: skip
        texts = [""] * len(clips)
        for segment in segments:
            middle = (segment.start + segment.end) / 2
            texts[min(int(np.searchsorted(ends, middle)), len(clips) - 1)] += segment.text
        return Answer(texts, count(segments))

    def count(segments: list) -> int:
        return sum(len(segment.tokens) for segment in segments)

    return Running(transcribe)


# --- whisper.cpp ------------------------------------------------------------------------------------------------------


def open_whisper_cpp(folder: Path, threads: int, multilingual: bool) -> Running:
    from pywhispercpp.model import Model  # type: ignore[import-not-found]

    model = Model(
        str(folder / "model.bin"), n_threads=threads, language="en", no_context=True, temperature=0.0,
        temperature_inc=0.0, greedy={"best_of": 1}, print_progress=False, print_realtime=False,
        print_timestamps=False, redirect_whispercpp_logs_to=None,
    )  # fmt: skip

    def transcribe(clips: Clips) -> Answer:
        # its segments come without the space between them
        return Answer([" ".join(segment.text for segment in model.transcribe(clip)) for clip in clips])

    return Running(transcribe)


# --- openvino-genai ---------------------------------------------------------------------------------------------------


def open_openvino(folder: Path, threads: int, multilingual: bool) -> Running:
    """With `return_timestamps` a long recording gets the same text in the same time: its windows go by them anyhow."""
    import openvino_genai  # type: ignore[import-not-found]

    pipeline = openvino_genai.WhisperPipeline(str(folder), "CPU", INFERENCE_NUM_THREADS=threads)
    options: dict[str, Any] = {"max_new_tokens": 440}
    if multilingual:
        options |= {"language": "<|en|>", "task": "transcribe"}

    def transcribe(clips: Clips) -> Answer:
        found = [pipeline.generate(clip, **options) for clip in clips]
        tokens = sum(each.perf_metrics.get_num_generated_tokens() for each in found)
        return Answer([each.texts[0] for each in found], tokens)

    return Running(transcribe)


# --- sherpa-onnx ------------------------------------------------------------------------------------------------------

LONGEST = 29 * RATE  # sherpa-onnx takes no more than a window at once; a little room for what it pads


def open_sherpa(folder: Path, threads: int, multilingual: bool) -> Running:
    import sherpa_onnx  # type: ignore[import-not-found]

    names = (str(folder / name) for name in ("encoder.onnx", "decoder.onnx", "tokens.txt"))
    recogniser = sherpa_onnx.OfflineRecognizer.from_whisper(*names, language="en", num_threads=threads)

    def transcribe(clips: Clips) -> Answer:
        parts = [cut_at_quiet(clip, LONGEST) for clip in clips]
        streams = [[recogniser.create_stream() for _ in each] for each in parts]
        for stream, part in zip(chain(*streams), chain(*parts), strict=True):
            stream.accept_waveform(RATE, part)
        recogniser.decode_streams([stream for each in streams for stream in each])
        tokens = sum(len(stream.result.tokens) for each in streams for stream in each)
        return Answer([" ".join(stream.result.text for stream in each) for each in streams], tokens)

    return Running(transcribe)
