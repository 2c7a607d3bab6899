"""File names as annotations state them → the image files that there are.

Annotation tools write names of the machine they ran on: `C:\\data\\a.jpg`, `/datasets/img/a.jpg`, `img%201.jpg`, `http://.../a.jpg`,
`a.JPG` for `a.jpg`. The name is looked for as it is, then without its first folders, then by its last part anywhere below the
folder of images. What was not found as stated is noted. Two files that could be meant are a problem, never a choice; a name
that leads out of the folder (`..`) is refused, and an image of `train/` is never taken for one of `val/`.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from data_prep.report import Report

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".jp2", ".heic", ".heif", ".avif", ".jfif")
_PARTS = {"train": "train training", "val": "val valid validation dev", "test": "test testing", "trainval": "trainval"}
SPLIT_OF = {name: part for part, names in _PARTS.items() for name in names.split()}
"""Names of folders that hold one part of a set, and which."""


class NotFound(ValueError):
    """Why no file stands for a name."""


def split_of(folder: str) -> str | None:
    """Which part of a set a folder of this name holds (`train2017`: train), None where its name is no part."""
    return SPLIT_OF.get(folder.casefold().rstrip("0123456789_-"))


@dataclass
class ImageFinder:
    """Finds images below `root`. The folder is listed once, at the first name that is not found as it stands."""

    root: Path
    report: Report | None = None
    _by_name: dict[str, list[str]] | None = None
    _by_stem: dict[str, list[str]] = field(default_factory=dict)
    _name_of: dict[str, str] = field(default_factory=dict)
    _in_folder: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def find(self, name: str, where: str = "") -> Path:
        """The file that `name` stands for. Raises NotFound, with the reason in one sentence."""
        direct = os.path.join(self.root, name)
        if ".." not in name and os.path.isfile(direct):
            return Path(self._taken(direct, name))
        parts = _parts(name)
        if ".." in parts:
            raise NotFound(f"the file name {name!r} leads out of {self.root}")
        if not parts:
            raise NotFound(f"{name!r} is no file name")
        found = self._below(parts, name)
        self._taken(os.path.join(self.root, found), name)
        if self.report is not None:
            kind = f"images found below {self.root} under another spelling of their names"
            self.report.note(where, f"{name!r} is taken to be {found}", kind)
        return self.root / found

    def of_stem(self, name: str) -> list[str]:
        """The images whose names are `name` with a suffix, in its folder below `root`; each folder is listed once."""
        folder, _, stem = name.rpartition("/")
        if folder not in self._in_folder:
            found = self._in_folder[folder] = {}
            path = os.path.join(self.root, folder)
            for file in sorted(os.listdir(path)) if os.path.isdir(path) else ():
                base, end = os.path.splitext(file)
                if end.casefold() in IMAGE_SUFFIXES:
                    found.setdefault(base, []).append(f"{folder}/{file}" if folder else file)
        return self._in_folder[folder].get(stem, [])

    def _taken(self, path: str, name: str) -> str:
        """`path`, unless it stands for another name already: then one of the two files is missing."""
        other = self._name_of.setdefault(path, name)
        if other != name and tuple(map(_folded, _parts(other))) != tuple(map(_folded, _parts(name))):
            raise NotFound(f"no such image {self.root / name}; {path}, which could be meant, is {other!r} already")
        return path

    def _below(self, parts: tuple[str, ...], name: str) -> str:
        for start in range(len(parts)):
            shorter = "/".join(parts[start:])
            if (self.root / shorter).is_file() and not _other_part(parts, shorter, self.root):
                return shorter
        if self._by_name is None:
            self._list()
        by_name = self._by_name or {}
        candidates = by_name.get(_folded(parts[-1]), [])
        if not candidates and not parts[-1].casefold().endswith(IMAGE_SUFFIXES):
            candidates = self._by_stem.get(_folded(parts[-1]), [])
        candidates = [path for path in candidates if not _other_part(parts, path, self.root)]
        exact = [path for path in candidates if PurePosixPath(path).name == parts[-1]]
        candidates = exact or candidates
        longest = max((_shared_end(parts, path) for path in candidates), default=0)
        candidates = [path for path in candidates if _shared_end(parts, path) == longest]
        if not candidates:
            raise NotFound(f"no such image {self.root / name}")
        if len(candidates) > 1:
            some = ", ".join(candidates[:3])
            raise NotFound(f"no such image {self.root / name}, and {len(candidates)} files could be meant: {some}")
        return candidates[0]

    def _list(self) -> None:
        self._by_name = {}
        for folder, _, files in os.walk(self.root, followlinks=True):
            below = os.path.relpath(folder, self.root)
            for file in files:
                if not file.casefold().endswith(IMAGE_SUFFIXES) or file.startswith("._"):
                    continue
                path = file if below == "." else PurePosixPath(below.replace(os.sep, "/"), file).as_posix()
                self._by_name.setdefault(_folded(file), []).append(path)
                self._by_stem.setdefault(_folded(os.path.splitext(file)[0]), []).append(path)


def _parts(name: str) -> tuple[str, ...]:
    """The folders and the file of a name from any system: `C:\\a\\b.jpg` → (a, b.jpg)."""
    text = name.strip()
    if "://" in text:
        text = urlsplit(text).path
    text = unquote(text).replace("\\", "/")
    if len(text) > 1 and text[1] == ":" and text[0].isalpha():
        text = text[2:]
    return tuple(part for part in text.split("/") if part not in ("", "."))


def _folded(name: str) -> str:
    """Names that people take for one: case, composed or decomposed accents, and `%20` do not matter."""
    return unicodedata.normalize("NFC", unquote(name)).casefold()


def _other_part(stated: tuple[str, ...], found: str, root: Path) -> bool:
    """Whether the name speaks of one part of the set (train) and the file lies in another (val)."""
    wanted = [part for part in map(split_of, stated[:-1]) if part]
    below = [part for part in map(split_of, PurePosixPath(found).parts[:-1]) if part] or [
        part for part in [split_of(root.resolve().name)] if part
    ]
    return bool(wanted and below) and wanted[-1] != below[-1]


def _shared_end(parts: tuple[str, ...], path: str) -> int:
    """How many of the last folders the name and the file share, the file's own name apart."""
    n = 0
    for one, other in zip(reversed(parts[:-1]), reversed(PurePosixPath(path).parts[:-1]), strict=False):
        if _folded(one) != _folded(other):
            break
        n += 1
    return n
