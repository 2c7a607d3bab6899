"""The files below the folder of a set, and their text."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.class_folders import SUFFIXES, walked
from data_prep.image_finding import ImageFinder, split_of
from data_prep.report import Report
from data_prep.text_encoding import as_bytes, marked, of_file, problem
from data_prep.text_encoding import read_text as read_text

N_SAMPLED = 500
"""So many files of one suffix are looked at to recognise a format."""
HEAD_BYTES = 4096
"""How much of a file is read to recognise its format."""


@dataclass(frozen=True)
class Options:
    """What the command line says about reading. `label_key`: the attribute that holds the label; `label`: the label of objects
    that have none; `names`: a file of class names; `boxes`: what four numbers of a table are; `encoding`: of text files
    that are not UTF-8."""

    label_key: str | None = None
    label: str | None = None
    names: Path | None = None
    boxes: str | None = None
    encoding: str | None = None


class Tree:
    """The files below a folder, or one file and the images beside it. What operating systems leave behind is not there."""

    def __init__(self, root: Path, images: Path | None, options: Options, report: Report) -> None:
        self.root = root if root.is_dir() else root.parent
        self.options = options
        self.report = report
        self.files = _files(self.root) if root.is_dir() else [root.name]
        self.images_root = images or self.root
        self.finder = ImageFinder(self.images_root, report)
        self._by_suffix: dict[str, list[str]] | None = None

    @cached_property
    def images(self) -> list[str]:
        """The images below the folder of images, relative to it, sorted."""
        names = self.files if self.images_root == self.root and len(self.files) > 1 else _files(self.images_root)
        return [name for name in names if suffix(name) in SUFFIXES]

    def sampled(self) -> Tree:
        """The same tree with some files of each kind only, where there are thousands: enough to recognise a format."""
        by_suffix: dict[str, list[str]] = {}
        for name in self.files:
            by_suffix.setdefault(suffix(name), []).append(name)
        several = {end: names for end, names in by_suffix.items() if end not in SUFFIXES and len(names) > N_SAMPLED}
        if not several:
            return self
        dropped = {name for names in several.values() for name in names} - {
            name for names in several.values() for name in names[:: -(-len(names) // N_SAMPLED)]
        }
        some_files = copy(self)
        some_files.files = [name for name in self.files if name not in dropped]
        some_files._by_suffix = None
        return some_files

    def drop(self, names: Iterable[str]) -> None:
        """Take files out of the tree: readers do not see them."""
        if dropped := set(names):
            self.files = [name for name in self.files if name not in dropped]
            self._by_suffix = None

    def with_suffix(self, *suffixes: str) -> list[str]:
        """The files whose names end in one of `suffixes` (lower case, with the dot)."""
        if self._by_suffix is None:
            self._by_suffix = {}
            for name in self.files:
                self._by_suffix.setdefault(suffix(name), []).append(name)
        return sorted(name for end in suffixes for name in self._by_suffix.get(end, ()))

    def path(self, name: str) -> Path:
        """The file `name` of `files`."""
        return self.root / name

    def head(self, name: str) -> str:
        """The first few thousand characters of a file, whatever its encoding: enough to recognise it."""
        with self.path(name).open("rb") as file:
            data = file.read(HEAD_BYTES)
        return data.decode(marked(data) or "utf-8", errors="replace").lstrip("\ufeff")

    def text(self, name: str) -> str:
        """The text of a file. Ends the program where it is not in the encoding of the options."""
        return read_text(self.path(name), self.options.encoding)

    def has(self, name: str, *texts: str) -> bool:
        """Whether a file holds all these texts (ASCII); read piece by piece, as a file may be large."""
        before = b""
        with self.path(name).open("rb") as file:
            start = file.read(4)
            file.seek(0)
            missing = {as_bytes(text, start) for text in texts}
            while missing and (piece := file.read(1 << 20)):
                missing = {text for text in missing if text not in before + piece}
                before = piece[-256:]
        return not missing

    def table(self, name: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
        """The rows of a table with the numbers of their lines, one at a time. Ends the program where it is none."""
        csv.field_size_limit(1 << 27)
        path = self.path(name)
        encoding = of_file(path, self.options.encoding)
        with path.open(encoding=encoding, newline="") as lines:
            reader = csv.reader(lines, delimiter=delimiter)
            try:
                for row in reader:
                    yield reader.line_num, row
            except UnicodeDecodeError as error:
                raise SystemExit(f"{path}: {problem(error, encoding)}") from None
            except csv.Error as error:
                raise SystemExit(f"{path}: line {reader.line_num}: not a table: {error}") from None

    def json(self, name: str) -> Any:
        """The content of a JSON file with many images; ends the program where it is none."""
        try:
            return json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise SystemExit(f"{self.path(name)}: not JSON: {error}") from None

    def json_of_image(self, name: str) -> Any:
        """The content of the JSON file of one image; None (reported) where it is none."""
        try:
            return self.json(name)
        except SystemExit as problem:
            why = str(problem).removeprefix(f"{self.path(name)}: ")
            kind = "files in another encoding" if "--encoding" in why else "files that are not JSON"
            self.report.bad(str(self.path(name)), why, kind, what="images")
            return None


def suffix(name: str) -> str:
    """The suffix of a file name, in lower case with the dot."""
    return os.path.splitext(name)[1].lower()


def split_in(name: str) -> str | None:
    """The part of the set that the folders of a path name (the innermost counts), or None."""
    found = [split_of(part) for part in PurePosixPath(name).parts[:-1]]
    return next((split for split in reversed(found) if split), None)


def _files(root: Path) -> list[str]:
    found: list[str] = []
    for place, _, names in walked(root):
        below = os.path.relpath(place, root).replace(os.sep, "/")
        found += [name if below == "." else f"{below}/{name}" for name in names]
    return sorted(found)
