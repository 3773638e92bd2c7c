"""Bark's models: their shapes, and their weights: from a hub, a folder, or random ones."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel, BarkConfig, BarkModel, EncodecConfig, GenerationConfig
from transformers.models.bark.generation_configuration_bark import BarkGenerationConfig

from labsupport.bark.attention import register
from labsupport.base.errors import BarkError, CheckpointError, LabError, printable
from labsupport.checkpoints.hub import download
from labsupport.checkpoints.safetensors_files import find_weights, read_header
from labsupport.checkpoints.settings import check_size, read_json
from labsupport.optim.offload import Stage

try:
    from transformers.initialization import no_init_weights  # transformers 5
except ImportError:
    from transformers.modeling_utils import no_init_weights

SHAPES = {  # name -> width, layers and heads of each of the three transformers
    "bark": (1024, 24, 16),
    "bark-small": (768, 12, 12),
    "bark-lesson": (128, 2, 4),  # for results in seconds: the vocabularies and the codec are the true ones
}
SAMPLE_RATE = 24_000
PARTS = ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config")
LIMITS = {  # a damaged size must not cost hours or all memory
    "hidden_size": 16_384, "num_layers": 512, "num_heads": 512, "block_size": 65_536,
    "input_vocab_size": 1_000_000, "output_vocab_size": 1_000_000,
}  # fmt: skip
UNREADABLE = (  # what transformers raises for settings and weights that it cannot use; RuntimeError is torch's
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError,
    AssertionError, SafetensorError, CheckpointError, StrictDataclassError,
)  # fmt: skip


def make_config(name: str) -> BarkConfig:
    """Shape `name` with the vocabularies of Suno's checkpoints; BarkError if there is no such shape."""
    if name not in SHAPES:
        raise BarkError(f"There is no shape {name!r}.", hint=f"Known: {', '.join(SHAPES)}.")
    width, layers, heads = SHAPES[name]
    common = {"hidden_size": width, "num_layers": layers, "num_heads": heads, "bias": False}
    return BarkConfig(
        semantic_config={**common, "input_vocab_size": 129_600, "output_vocab_size": 10_048},
        coarse_acoustics_config={**common, "input_vocab_size": 12_096, "output_vocab_size": 12_096},
        fine_acoustics_config={**common, "input_vocab_size": 1_056, "output_vocab_size": 1_056},
        codec_config=EncodecConfig().to_dict(),
    )


def load(
    name: str, attention: str = "eager", dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0
) -> BarkModel:
    """A Bark, ready to generate.

    Args:
        name: a shape of `SHAPES` with random weights, which has real time and memory but gives noise; or a folder or a
            hub's name, "suno/bark-small", "suno/bark".
        attention: "eager", of transformers, or "sdpa", of `bark.attention`.
        seed: of the random weights.

    Raises:
        BarkError: `name` is none of these, the hub cannot be reached, or it has only pickled weights.
        FolderError: there is no room for what the hub has.
    """
    register()
    if name in SHAPES:
        return nn.Module.to(make_random(make_config(name), attention, seed), device, dtype).eval()
    local = is_folder(name)
    try:
        model, report = BarkModel.from_pretrained(
            str(check_folder(find_folder(name))),
            attn_implementation=attention, dtype=dtype, output_loading_info=True,
            use_safetensors=True, local_files_only=True,
        )  # fmt: skip
    except UNREADABLE as error:
        said = printable(error.what if isinstance(error, LabError) else error)  # its hint would stand there twice
        raise BarkError(f"There is no Bark {name!r} here: {said}", where=name, hint=list_models()) from error
    kinds = ("missing_keys", "mismatched_keys", *(["unexpected_keys"] if local else []))
    if odd := [str(key) for kind in kinds for key in report[kind]]:
        what = f"{len(odd)} tensors are not those that config.json describes, {printable(min(odd))} among them."
        raise BarkError(what, where=name)
    return model.to(device).eval()


def is_folder(name: str) -> bool:
    return bool(name) and Path(name).expanduser().is_dir()


def find_folder(name: str) -> Path:
    """The folder of this name, or that of a hub's model, downloaded first where that is needed.

    A hub's model is fetched at the commit that the hub lists, each file held against its size and hash there, and never
    pickled weights.

    CheckpointError: there is neither, or the hub fails or has only pickled weights. FolderError: no room for it.
    """
    return Path(name).expanduser().resolve() if is_folder(name) else download(name, list_models())


def list_models() -> str:
    return f"Without a hub take a shape, whose weights are random: {', '.join(SHAPES)}."


def check_folder(folder: Path) -> Path:
    """The folder, if its config.json is a Bark's with sizes that can be, and its weights are safetensors, all whole.

    CheckpointError otherwise. The tensors' shapes are held against the configuration when they are loaded.
    """
    settings = read_json(folder / "config.json")
    if settings.get("model_type") != "bark":
        raise CheckpointError("The folder holds no Bark.", where=folder)
    for part in PARTS:
        sizes = settings.get(part)
        if not isinstance(sizes, dict):
            raise CheckpointError(f"The model's settings lack {part}.", where=folder / "config.json")
        for name, limit in LIMITS.items():
            check_size(sizes, name, limit, folder / "config.json")
    for file in find_weights(folder):
        read_header(file)
    return folder


def make_random(config: BarkConfig, attention: str, seed: int) -> BarkModel:
    """A model of this shape with the same random float32 weights for the same seed."""
    for part in (config, config.semantic_config, config.coarse_acoustics_config, config.fine_acoustics_config):
        part._attn_implementation = attention
    with no_init_weights():  # transformers' own initialisation needs biases, which Bark's norms lack
        model = BarkModel(config)
    generator = torch.Generator().manual_seed(seed)
    for part in (model.semantic, model.coarse_acoustics, model.fine_acoustics):
        for module in part.modules():
            initialise(module, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.codec_model = AutoModel.from_config(config.codec_config)
    for layer in model.codec_model.quantizer.layers:
        layer.codebook.embed.normal_(generator=generator)
    model.tie_weights()
    model.generation_config = GenerationConfig(**BarkGenerationConfig().to_dict())  # its parts as dicts, as in a file
    return model


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """As GPT-2's: weights normal with deviation 0.02, norms 1."""
    if isinstance(module, nn.LayerNorm):
        module.reset_parameters()
    elif isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02, generator=generator)


def stages(model: BarkModel) -> dict[str, Stage]:
    """The four stages for an offloader, in the order of their turns in the model's own `generate`."""
    return {
        "semantic": Stage(model.semantic, model.semantic, "generate"),
        "coarse": Stage(model.coarse_acoustics, model.coarse_acoustics, "generate"),
        "fine": Stage(model.fine_acoustics, model.fine_acoustics, "generate"),
        "codec": Stage(model.codec_model, model, "codec_decode"),
    }
