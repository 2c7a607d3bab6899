"""Files of annotations that hold none: empty, cut short, or pointers of Git LFS. They are counted as images that are lost, as
otherwise a set would seem smaller than it is. An empty text file is none of them: in YOLO it says that nothing is there.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_prep.formats.tree import Tree, suffix
from data_prep.image_headers import not_fetched
from data_prep.text_encoding import WrongEncoding, decoded, xml_text

_STRUCTURED = (".json", ".xml", ".csv", ".tsv")
_SMALL_BYTES = 1024
"""An empty file and a pointer are smaller."""
_LOOKED_AT = 50
"""So many files are looked at to say why a set is not recognised."""
_PARSED_BYTES = 1 << 24
"""Larger files that no reader has recognised are not parsed to find out whether they are whole."""


def drop_unusable(tree: Tree, read: Iterable[str]) -> None:
    """Report the empty files and pointers among those of the kinds that are read, and take them out of the tree. `read`: the
    files of the format."""
    endings = {suffix(name) for name in read} or {*_STRUCTURED, ".txt"}
    found = {name: problem for name in tree.with_suffix(*sorted(endings)) if (problem := _nothing_in(tree.path(name)))}
    for name, problem in found.items():
        kind = "files that Git LFS has not fetched" if "Git LFS" in problem else "empty files"
        tree.report.bad(str(tree.path(name)), problem, kind, what="images")
    tree.drop(found)


def report_cut_short(tree: Tree, others: Sequence[str]) -> list[str]:
    """Report the files among `others`, which no reader has recognised, that are not whole; returns the rest."""
    rest = []
    for name in others:
        problem = _cut_short(tree.path(name), tree.options.encoding)
        if problem is None:
            rest.append(name)
        else:
            tree.report.bad(str(tree.path(name)), problem, "files that are cut short or damaged", what="images")
    return rest


def first_problem(tree: Tree) -> str | None:
    """What is wrong with the first file that could hold annotations and does not, or None."""
    for name in tree.with_suffix(*_STRUCTURED, ".txt")[:_LOOKED_AT]:
        problem = _nothing_in(tree.path(name)) or _cut_short(tree.path(name), tree.options.encoding)
        if problem is not None:
            return f"{name}: {problem}"
    return None


def _nothing_in(path: Path) -> str | None:
    try:
        if path.stat().st_size > _SMALL_BYTES:
            return None
        is_empty = not path.read_bytes().strip(b"\xef\xbb\xbf \r\n\t\0")
    except OSError as error:
        return f"cannot be read: {error}"
    return not_fetched(path) or ("the file is empty" if is_empty and suffix(path.name) in _STRUCTURED else None)


def _cut_short(path: Path, encoding: str | None) -> str | None:
    if suffix(path.name) not in (".json", ".xml") or path.stat().st_size > _PARSED_BYTES:
        return None
    try:
        if suffix(path.name) == ".json":
            json.loads(decoded(path.read_bytes(), encoding))
        else:
            ElementTree.fromstring(xml_text(path.read_bytes(), encoding))
    except WrongEncoding as wrong:
        return str(wrong)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    except ElementTree.ParseError as error:
        return f"not well-formed XML: {error}"
    return None
