"""The line `python -m monai.bundle run ...` that a command stands for: how it is written, shown and run."""

from __future__ import annotations

import logging
import os
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import fire.parser

__all__ = ["bundle_line", "quoted", "run_line", "shown_line", "verbatim"]


def verbatim(path: str) -> str:
    """A path in the form that MONAI's command line takes for exactly this file or folder.

    Its parser (fire) takes 1e3 for a number and a,b for a list; its configs take what begins with $, @ or % for an
    expression, a reference or a macro, and every # for ::, which an expression alone can hide.
    """
    if "#" in path:
        return f"${path!r}".replace("#", r"\x23").replace("@", r"\x40")
    if path.startswith(("$", "@", "%")):
        path = f"./{path}"
    return _as_text(path)


def _as_text(text: str) -> str:
    value = fire.parser.DefaultParseValue(text)
    return text if isinstance(value, str) and value == text else repr(text)


def bundle_line(run_id: str, files: Iterable[str], values: Mapping[str, str]) -> list[str]:
    """The arguments after `python -m monai.bundle`.

    Args:
        run_id: the workflow.
        files: config files; those that lie below the current folder are named from there.
        values: values of options, as fire reads them.
    """
    names = [_from_here(file) for file in files]
    configs = f"[{','.join(map(repr, names))}]" if len(names) > 1 else _as_text(names[0])
    words = ["run", run_id]
    for name, value in {"config_file": configs, **values}.items():
        words += [f"--{name}={value}"] if value.startswith("-") else [f"--{name}", value]
    return words


def _from_here(file: str) -> str:
    path, here = os.path.abspath(file), os.path.join(os.getcwd(), "")
    return path.removeprefix(here)


def shown_line(words: Iterable[str]) -> str:
    """The line in the form that one types into a shell."""
    return " ".join(map(quoted, ("python", "-m", "monai.bundle", *words)))


def quoted(word: str) -> str:
    """A word in the form that one types into a shell: as it is, or in double quotes if these do not change it."""
    if re.fullmatch(r"[\w@%+=:,./-][\w@%+=:,./#-]*", word):
        return word
    return shlex.quote(word) if re.search(r'["$`\\!\n]', word) or not word else f'"{word}"'


def run_line(words: list[str], known: bool = False) -> None:
    """Shows the line and runs it in this process, as Python's `-m` does, without what MONAI tells before the work.

    Args:
        words: as `bundle_line` returns them.
        known: whether all configs are those of the package: MONAI's warning that configs run code is left out, too.

    Raises:
        SystemExit: as the bundle raises it, with its exit status.
    """
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several
        print(shown_line(words), file=sys.stderr, flush=True)
    before = sys.argv, list(sys.path)
    sys.argv = ["monai.bundle", *words]
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.getcwd())  # as -m does: a config may name modules of this folder
    try:
        with _quiet(known):
            runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    finally:
        sys.argv, sys.path[:] = before


@contextmanager
def _quiet(known: bool) -> Iterator[None]:
    errors = logging.StreamHandler()
    errors.setLevel(logging.ERROR)
    # These print all options again, by handlers of MONAI's unless there are some.
    loggers = [logging.getLogger(f"monai.bundle.{name}") for name in ("scripts", "workflows")]
    for logger in loggers:
        logger.addHandler(errors)
    try:
        with warnings.catch_warnings():
            if known:
                warnings.filterwarnings("ignore", "parsing config_file")
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(errors)
