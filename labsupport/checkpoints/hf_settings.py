"""The small files beside the weights, so that a converted folder loads in transformers like one from the hub."""

from __future__ import annotations

import json
from pathlib import Path

from labsupport.base.errors import CheckpointError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.settings import read_generation, read_json

TIMESTAMPS = 1501  # <|0.00|> to <|30.00|>


def write_settings(source: Path, folder: Path, config: Config) -> None:
    """Writes every settings file into `folder`, from config.json and tokenizer.json in CTranslate2's `source`.

    CheckpointError: one of the two is missing, damaged, or lacks something that a Whisper's has.
    """
    settings = read_json(source / "config.json")
    try:
        write_tokenizer(source / "tokenizer.json", folder)
        ids = special_ids(folder / "tokenizer.json")
        write_json(folder / "config.json", model_settings(config, ids))
        write_json(folder / "generation_config.json", generation_settings(config, ids, settings))
    except KeyError as missing:
        raise CheckpointError(f"The package's settings lack {missing}.", where=source) from missing
    read_generation(folder, config)
    write_json(folder / "preprocessor_config.json", feature_settings(config))
    # The table of British spellings, which no package has; without the file transformers' `normalize` fails.
    write_json(folder / "normalizer.json", {})


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def special_ids(tokenizer: Path) -> dict[str, int]:
    """The tokens outside the byte-pair vocabulary, by their text."""
    return {t["content"]: t["id"] for t in json.loads(tokenizer.read_text(encoding="utf-8"))["added_tokens"]}


def model_settings(config: Config, ids: dict[str, int]) -> dict:
    """`config.json` of transformers' WhisperForConditionalGeneration."""
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "dtype": "float32",
        "activation_function": "gelu",
        "is_encoder_decoder": True,
        "scale_embedding": False,
        **config.to_hf(),
        **common_ids(ids),
    }


def common_ids(ids: dict[str, int]) -> dict[str, int]:
    """Where a text starts and ends; the published models call 50257 `bos` in both vocabularies."""
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    return {"bos_token_id": 50257, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}


def generation_settings(config: Config, ids: dict[str, int], ctranslate2_settings: dict) -> dict:
    """`generation_config.json`: suppressed tokens, prompt tokens, lengths."""
    settings = {
        **common_ids(ids),
        "alignment_heads": ctranslate2_settings["alignment_heads"],
        "suppress_tokens": ctranslate2_settings["suppress_ids"],
        "begin_suppress_tokens": ctranslate2_settings["suppress_ids_begin"],
        "is_multilingual": config.multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": config.text_positions,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "return_timestamps": False,
    }
    if config.multilingual:
        tasks = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
        first, last = ids["<|startoftranscript|>"] + 1, ids["<|translate|>"]
        languages = {token: id for token, id in ids.items() if first <= id < last}
        # Without a task transformers prompts for none, and base repeats one word without end. The published files have
        # it in `forced_decoder_ids`, which is deprecated.
        settings |= {"lang_to_id": languages, "task_to_id": tasks, "task": "transcribe"}
    return settings


def feature_settings(config: Config) -> dict:
    """`preprocessor_config.json`: the log-mel features."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": config.mels,
        "sampling_rate": 16_000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 30,
        "n_samples": 480_000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def write_tokenizer(source: Path, folder: Path) -> None:
    """The fast tokenizer with the timestamps that CTranslate2's file lacks, and the slow one's files."""
    from tokenizers import AddedToken, Tokenizer

    read_json(source)
    try:
        tokenizer = Tokenizer.from_file(str(source))
    except Exception as error:  # the library raises no class of its own for JSON that is no tokenizer
        raise CheckpointError(f"The tokenizer is damaged: {error}", where=source) from error
    tokenizer.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", normalized=False) for i in range(TIMESTAMPS)])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    write_json(folder / "vocab.json", content["model"]["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", tokenizer_settings(content["added_tokens"]))


def tokenizer_settings(added: list[dict]) -> dict:
    """`tokenizer_config.json`, with every token outside the byte-pair vocabulary."""
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>"),
        "additional_special_tokens": [token["content"] for token in added if token["special"]],
        "added_tokens_decoder": {str(t["id"]): {field: t[field] for field in fields} for t in added},
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": True,
        "errors": "replace",
        "model_max_length": 1024,
        "return_attention_mask": False,
    }
