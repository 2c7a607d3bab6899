"""Images that must not come in again: those of a test set, or those that a few-shot file has drawn.

A list excludes exactly what it names. A line is an image id (`9`), or a file name with as many of its folders as are needed
(`000002.jpg`, `val/000002.jpg`); a number is never taken for a file name or the other way round. Files of COCO have names that
are unique over all of its releases, so `COCO_train2014_000000000009.jpg` is image 9 and `000000000009.jpg` wherever it lies.
Of files of samples, augmented copies of their photographs (`name.rf.<hash>.jpg`) are left out too.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.image_finding import IMAGE_SUFFIXES
from data_prep.writing import need_file

_COCO = re.compile(r"(?:COCO_\w+?_)?(0{5}\d{7})")


def add_exclude_option(parser: argparse.ArgumentParser) -> None:
    """Add `--exclude_images`."""
    parser.add_argument(
        "--exclude_images",
        "--exclude",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="images to leave out: text files with one image id or file name per line, or .jsonl files of samples, such as a "
        "few-shot file whose images must not be in the test set",
    )


def check_exclude_option(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends the program where a file of the above is missing."""
    for file in args.exclude_images:
        need_file(parser, "--exclude_images", file)


@dataclass
class Excluded:
    """The images of lists. `has` counts which entries were met, so that `unmet` can name the others."""

    entries: dict[str, list[tuple[tuple[str, ...], Path | None]]] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    names: dict[tuple[str, ...], str] = field(default_factory=dict)
    met: Counter[str] = field(default_factory=Counter)
    photographs: set[str] = field(default_factory=set)
    n_images: int = 0
    n_copies: int = 0

    @classmethod
    def of(cls, args: argparse.Namespace) -> Excluded:
        """The lists of `--exclude_images`, read once for the whole program."""
        if not hasattr(args, "excluded"):
            args.excluded = cls.read(args.exclude_images)
        found: Excluded = args.excluded
        return found

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Excluded:
        """The images of these files. Ends the program where one is no list."""
        found = cls()
        for path in paths:
            try:
                lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
                if path.suffix == ".jsonl":
                    images = [image for line in lines for image in json.loads(line).get("images", ())]
                    for image in dict.fromkeys(map(str, images)):
                        found.add(image, path.parent / image)
                else:
                    for line in dict.fromkeys(lines):
                        found.add(line, None)
            except (ValueError, AttributeError, TypeError) as error:
                raise SystemExit(f"--exclude_images: {path} is no list of images or file of samples: {error}") from error
        return found

    def add(self, line: str, file: Path | None) -> None:
        """An image id, or a file name; `file`: where it lies, if that is known."""
        if not line.casefold().endswith(IMAGE_SUFFIXES):
            self.ids.add(line)
        parts = _parts(line)
        if parts:
            if file is not None and ".rf." in parts[-1]:
                self.photographs.add(parts[-1].partition(".rf.")[0])
            self.names[parts] = line
            self.entries.setdefault(_key(parts[-1]), []).append((parts, file))

    def has(self, image_id: str, name: str, root: Path) -> bool:
        """Whether the image with this id and file name (below `root`) is listed."""
        if not self.names:
            return False
        parts = _parts(name)
        listed = [image_id] if image_id in self.ids else []
        coco = _COCO.fullmatch(Path(parts[-1]).stem) if parts else None
        if coco and str(int(coco.group(1))) in self.ids:
            listed.append(str(int(coco.group(1))))
        for other, file in self.entries.get(_key(parts[-1]), ()) if parts else ():
            if coco or _same(parts, other, root / name, file):
                listed.append(self.names[other])
        self.met.update(set(listed))
        is_copy = bool(parts) and ".rf." in parts[-1] and parts[-1].partition(".rf.")[0] in self.photographs
        self.n_copies += is_copy and not listed
        self.n_images += is_copy or bool(listed)
        return is_copy or bool(listed)

    def report(self) -> None:
        """Print how many images were excluded, which entries stand for none, and which for several."""
        listed = set(self.names.values()) | self.ids
        copies = f", {self.n_copies} of them copies of listed photographs" if self.n_copies else ""
        print(f"excluded   {self.n_images} images{copies}")
        for text, some in (
            ("stand for no image of this set", sorted(listed - set(self.met))),
            ("stand for several images each, all left out", sorted(entry for entry, n in self.met.items() if n > 1)),
        ):
            if some:
                print(f"note: {len(some)} of {len(listed)} listed images {text}: {', '.join(some[:3])}", file=sys.stderr)


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def _key(file_name: str) -> str:
    """The base name, of COCO's files their number."""
    coco = _COCO.fullmatch(Path(file_name).stem)
    return coco.group(1) if coco else file_name


def _same(parts: tuple[str, ...], other: tuple[str, ...], file: Path, listed: Path | None) -> bool:
    """Whether two names with the same last part mean one file: the same content where both are there, else the same folders as
    far as both state them."""
    if listed is not None and listed.is_file() and file.is_file():
        return listed.samefile(file) or filecmp.cmp(listed, file, shallow=False)
    n = min(len(parts), len(other))
    return parts[-n:] == other[-n:]
