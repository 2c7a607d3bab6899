"""Reads pickles of annotations without running code in them.

Some public sets come as pickles, and a pickle can name any function to call. Here only plain data (numbers, text, lists,
dictionaries, sets) is built, and numpy arrays where the set has them; any other name ends the program.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

PLAIN: Mapping[tuple[str, str], Callable[..., Any]] = {("builtins", "set"): set, ("builtins", "frozenset"): frozenset}


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin-1")


ARRAYS: Mapping[tuple[str, str], Callable[..., Any]] = {
    **PLAIN,
    ("_codecs", "encode"): _latin1,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # numpy's own private functions, by what it puts into a pickle: their home has moved with numpy's versions
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # type: ignore[dict-item]
    ("numpy.core.multiarray", "scalar"): np.float64(0).__reduce__()[0],  # type: ignore[dict-item]
    ("numpy.core.numeric", "_frombuffer"): np.empty(1).__reduce_ex__(5)[0],  # type: ignore[dict-item]
}


class _Restricted(pickle.Unpickler):
    allowed: Mapping[tuple[str, str], Callable[..., Any]] = PLAIN

    def find_class(self, module: str, name: str) -> Any:
        key = (module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins"), name)
        if key not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which annotations do not need")
        return self.allowed[key]


def read_pickle(path: Path, allowed: Mapping[tuple[str, str], Callable[..., Any]] = PLAIN) -> Any:
    """The data in a pickle (`PLAIN` or `ARRAYS`), Python 2's text as Latin-1; ends the program for anything else."""
    with path.open("rb") as file:
        reader = _Restricted(file, encoding="latin-1")
        reader.allowed = allowed
        try:
            return reader.load()
        # what a damaged pickle makes the unpickler raise is not documented; these are the kinds it is known to
        except (
            *(pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError),
            *(AttributeError, OverflowError, MemoryError),
        ) as error:
            raise SystemExit(f"{path}: not a pickle of plain data: {error or type(error).__name__}") from error
