"""Whisper's spellings of options and of flags' values, and files that begin as an option does."""

from __future__ import annotations

import os
import re

import typer
from typer.core import TyperCommand

from labsupport.base.errors import printable

SPELLED_AS_WHISPERS = {"token_normalize_func": lambda name: name.replace("_", "-")}  # settings of its context
VALUES = ("True", "False")
ALIASES = {"--vad-filter": "--vad"}  # faster-whisper's
FLAGS = {  # what whisper's `--vad False` is here; a flag that the command lacks, and does not do, is left out
    "--carry-initial-prompt": [],
    "--condition-on-previous-text": ["--no-condition-on-previous-text"],
    "--fp16": [],
    "--highlight-words": [],
    "--timestamps": [],
    "--vad": ["--no-vad"],
    "--word-timestamps": [],
}


class FileCommand(TyperCommand):
    """A command on files, which are told from options (`-opening.wav`) and from whisper's values of flags (`True`).

    An option of whisper that it lacks is refused with what to use instead.
    """

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        for argument in args[: args.index("--")] if "--" in args else args:
            if argument.startswith("-") and is_file_name(argument):
                name = printable(argument)
                hint = f"If it is a file, write ./{name}, or -- before the files."
                raise typer.BadParameter(f"{name} begins as an option does. {hint}", ctx=ctx)
        try:
            return super().parse_args(ctx, spell_flags(args))
        except Exception as error:  # an option that it does not know; typer has no public name for this error
            name = getattr(error, "option_name", "").replace("_", "-")
            if instead := find_instead(name):
                raise typer.BadParameter(f"{name} is whisper's, and not here. {instead}", ctx=ctx) from None
            raise


def find_instead(option: str) -> str | None:
    """What to use in place of an option of whisper's that is not here."""
    if not option:
        return None
    from labsupport.whisper.missing_options import INSTEAD

    return INSTEAD.get(option)


def spell_flags(args: list[str]) -> list[str]:
    """`--word_timestamps True` as the flag alone, and False as its contrary, or as nothing where it has none."""
    end = args.index("--") if "--" in args else len(args)
    spelled: list[str] = []
    for argument in (part for each in args[:end] for part in split_flag(each)):
        if argument not in VALUES or not spelled or spelled[-1] not in FLAGS:
            spelled.append(argument)
        elif argument == "False":
            spelled[-1:] = FLAGS[spelled[-1]]
    return spelled + args[end:]


def split_flag(argument: str) -> list[str]:
    """`--vad_filter=True` as --vad and True; what is no flag as it is."""
    name, equals, value = argument.partition("=")
    name = name.replace("_", "-")
    if (flag := ALIASES.get(name, name)) not in FLAGS or (equals and value not in VALUES):
        return [argument]
    return [flag, value] if equals else [flag]


def is_file_name(argument: str) -> bool:
    """Whether there is such a file, or it ends as one; numbers and `--model=tiny.en` do not."""
    return os.path.isfile(argument) or re.fullmatch(r"[^=]*\.[A-Za-z]\w{1,4}", argument, re.DOTALL) is not None
