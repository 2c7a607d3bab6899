"""Which folders of a tree of images are its classes: split names, wrapping folders and nested classes are recognised.

`root/<class>/<image>` is the plain form. A level of split names (`root/train/<class>/...`, `root/<class>/test/...`), a single
folder around everything and classes in groups (`root/<group>/<class>/...`) are recognised and named in a note. What has two
readings ends the program with both. What operating systems leave behind (`__MACOSX`, `._photo.jpg`, `Thumbs.db`) is no data.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.image_finding import IMAGE_SUFFIXES, split_of
from data_prep.writing import Report
from vlrl.answers.span import canon

SUFFIXES = (*IMAGE_SUFFIXES, ".jpe", ".ppm", ".pgm", ".pnm")
"""File names that end so are images. Whether one can be read is found out by opening it."""
JUNK_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "__pycache__"})
JUNK_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
SHOWN = 6
"""How many folder names a message lists."""

Parts = tuple[str, ...]


@dataclass(frozen=True)
class ClassFolder:
    """One class: its name, what seeds its draws, and its images in the order of their paths. `source_ids`: their paths
    relative to the folder of classes."""

    name: str
    key: str
    paths: tuple[Path, ...]
    source_ids: tuple[str, ...]


def is_junk(name: str, *, folder: bool) -> bool:
    """Whether an operating system or a synchronising tool left this file or folder: it is never data."""
    return name.startswith(".") or name.lower() in (JUNK_FOLDERS if folder else JUNK_FILES)


def walked(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, through links, each folder once: a folder, its folders in order, its files. Junk is left out."""
    seen: set[str] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_junk(name, folder=True))
        yield place, folders, [name for name in names if not is_junk(name, folder=False)]


def split_named(name: str) -> str | None:
    """The split that a folder name stands for: train, val or test; None for any other name."""
    word = re.sub(r"[-_ ]*(set|images|split)$", "", name.strip().casefold())
    return "val" if word in ("eval", "evaluation") else split if (split := split_of(word)) in ("train", "val", "test") else None


def find_classes(
    root: Path, split: str | None, at: str | None, named: Mapping[str, str] | None, report: Report
) -> tuple[list[ClassFolder], str]:
    """The classes below `root` in the order of their names, those without an image in this split too, and the split read.

    `split`: train, val or test; None: train where the tree has splits. `at`: "top" or "leaf", which level of nested folders is
    the class; None: the one reading there is. `named`: the class names of `--class_names`, by folder. Ends the program where
    nothing can be read, or where there are two readings.
    """
    images = _walk(root)
    prefix = _unwrap(root, images, named)
    inside = {parts[len(prefix) :]: paths for parts, paths in images.items() if parts[: len(prefix)] == prefix}
    base = root.joinpath(*prefix)
    splits = _split_level(base, inside, named)
    if splits is not None:
        chosen = _choose_split(base, splits, split)
        below = {parts[1:]: paths for parts, paths in inside.items() if parts[:1] == (chosen,)}
        elsewhere = {parts[1:] for parts in inside if parts and len(parts) > 1}
        base = base / chosen
        classes = _classes(base, below, elsewhere, at, None, report)
        return classes, split or split_named(chosen) or "train"
    inner = _inner_splits(inside)
    if inner is not None:
        chosen = split or ("train" if "train" in inner else sorted(inner)[0])
        others = sorted(inner - {chosen})
        if chosen not in inner:
            raise SystemExit(f"--split {chosen}: below {base} are <class>/{{{', '.join(sorted(inner))}}}, and no {chosen}")
        _note(f"{base} holds <class>/<split>: reading {chosen}{_others(others)}")
        below = {parts[:1]: [] for parts in inside if parts}
        for parts, paths in inside.items():
            if split_named(parts[1]) == chosen:
                below[parts[:1]] = sorted([*below[parts[:1]], *paths])
        return _classes(base, below, set(), "top", None, report), chosen
    return _classes(base, inside, set(), at, named, report), split or "train"


def _walk(root: Path) -> dict[Parts, list[Path]]:
    """Folder (as parts below `root`) → its images, sorted; folders without an image directly inside are absent, but for empty
    ones on the first level. Links are followed once; junk is left out."""
    found: dict[Parts, list[Path]] = {}
    others: Counter[str] = Counter()
    for place, folders, names in walked(root):
        parts = Path(place).relative_to(root).parts
        images = sorted(name for name in names if _suffix(name) in SUFFIXES)
        others.update(_suffix(name) or name for name in names if _suffix(name) not in SUFFIXES)
        if images:
            found[parts] = [Path(place) / name for name in images]
        elif len(parts) == 1 and not folders:
            found[parts] = []
    if others:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(SHOWN))
        _note(f"{others.total()} files below {root} are no images by their names and are not read: {kinds}")
    return dict(sorted(found.items()))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _children(images: Mapping[Parts, Sequence[Path]]) -> list[str]:
    return sorted({parts[0] for parts in images if parts})


def _unwrap(root: Path, images: Mapping[Parts, Sequence[Path]], named: Mapping[str, str] | None) -> Parts:
    """The folders around everything: while one folder holds no image but one folder that holds folders, go inside."""
    prefix: Parts = ()
    while True:
        inside = {parts[len(prefix) :]: paths for parts, paths in images.items() if parts[: len(prefix)] == prefix}
        names = _children(inside)
        if () in inside or len(names) != 1 or (names[0],) in inside or split_named(names[0]) or (named and names[0] in named):
            break
        prefix = (*prefix, names[0])
    if prefix:
        _note(f"{root} holds one folder with everything inside; reading {root.joinpath(*prefix)}")
    return prefix


def _split_level(base: Path, inside: Mapping[Parts, Sequence[Path]], named: Mapping[str, str] | None) -> list[str] | None:
    """The folders of the first level that are splits, or None where they are classes. Ends the program where some are splits
    and some classes, and where splits hold images without a class."""
    names = _children(inside)
    if named and any(name in named for name in names):
        return None
    splits = [name for name in names if split_named(name)]
    nested = [name for name in splits if any(len(parts) > 1 and parts[0] == name for parts in inside)]
    others = [name for name in names if name not in splits]
    flat = [name for name in splits if name not in nested]
    if not splits:
        return None
    if nested and not others:
        if flat:
            _note(f"{_listed(flat)} in {base} holds images without folders of classes; they have no class and are left out")
        mixed = [name for name in nested if (name,) in inside]
        if mixed:
            n = sum(len(inside[(name,)]) for name in mixed)
            _note(f"{n} images lie directly in {_listed(mixed)} and not in the folder of a class; they are left out")
        return nested
    if nested or (len(splits) > 1 or not others):
        if not nested and not others:
            raise SystemExit(
                f"{base}: {_listed(splits)} are names of splits and hold images directly, so no folder names a class; "
                "this reads <root>/<class>/<image> or <root>/<split>/<class>/<image> (--class_names FILE if they are classes)"
            )
        raise SystemExit(
            f"{base}: {_listed(splits)} are names of splits, {_listed(others)} are not, so the classes are not clear; "
            f"give the folder whose folders are the classes (for example --root {base / splits[0]}), or --class_names FILE"
        )
    _note(f"the folder {splits[0]} in {base} is read as a class, as its neighbours are no splits")
    return None


def _choose_split(base: Path, splits: Sequence[str], wanted: str | None) -> str:
    names = [name for name in splits if split_named(name) == (wanted or "train")]
    if len(names) > 1:
        raise SystemExit(f"{base}: {_listed(names)} both name the split {wanted or 'train'}; give one as --root")
    if not names:
        if wanted is not None or len(splits) > 1:
            raise SystemExit(f"{base}: no folder of the split {wanted or 'train'}; it holds {_listed(splits)} (--split)")
        names = [splits[0]]
    others = [name for name in splits if name != names[0]]
    _note(f"{base} holds splits: reading {names[0]}{_others(others)}")
    return names[0]


def _inner_splits(inside: Mapping[Parts, Sequence[Path]]) -> set[str] | None:
    """The splits of `<class>/<split>/<image>`, or None where the tree is another."""
    found = {split_named(parts[1]) if len(parts) == 2 else None for parts in inside}
    return {name for name in found if name} if found and None not in found else None


def _classes(
    base: Path,
    inside: Mapping[Parts, Sequence[Path]],
    elsewhere: set[Parts],
    at: str | None,
    named: Mapping[str, str] | None,
    report: Report,
) -> list[ClassFolder]:
    """The classes of one split. `elsewhere`: folders of the other splits, which name classes too."""
    if () in inside:
        what = f"{len(inside[()])} images lie directly in {base}, in no folder of a class"
        if len(inside) == 1:
            raise SystemExit(f"{what}; this reads <root>/<class>/<image>: give the folder above if {base.name} is a class")
        report.bad(str(base), what)
    tree = {parts: list(inside.get(parts, ())) for parts in sorted({*inside, *elsewhere}) if parts}
    if not tree:
        raise SystemExit(f"{base}: no folder inside with images; this reads <root>/<class>/<image>")
    level = _level(base, tree, at)
    groups: dict[str, list[Path]] = {}
    for parts, paths in tree.items():
        groups.setdefault(parts[0] if level == "top" else parts[-1], []).extend(paths)
    classes = []
    for key in sorted(groups):
        if named is not None and key not in named:
            report.bad(str(base / key), "--class_names has no line for this folder")
            continue
        paths = sorted(groups[key])
        if not paths and not any(key in (parts[0], parts[-1]) for parts in elsewhere):
            report.bad(str(base / key), f"no image inside ({', '.join(SUFFIXES)})")
            continue
        ids = tuple(path.relative_to(base).as_posix() for path in paths)
        classes.append(ClassFolder(named[key] if named else key, key, tuple(paths), ids))
    empty = [one.name for one in classes if not one.paths]
    if empty:
        _note(f"{len(empty)} classes of other splits have no image in {base}: {_listed(empty)}")
    return classes


def _level(base: Path, tree: Mapping[Parts, Sequence[Path]], at: str | None) -> str:
    """Whether the outer ("top") or the innermost folders ("leaf") are the classes; ends the program where both may be."""
    if all(len(parts) == 1 for parts in tree):
        return "top"
    tops = {parts[0] for parts in tree}
    leaves = Counter(canon(leaf) for _, leaf in dict.fromkeys((parts[0], parts[-1]) for parts in tree))
    if at is None and all(parts[1:] == next(iter(tree))[1:] for parts in tree):
        return "top"  # <class>/images/<image>
    flat = [parts[0] for parts in tree if len(parts) == 1 and tree[parts]]
    outer, inner = _listed(sorted(tops)), _listed(sorted({parts[-1] for parts in tree}))
    if at is None:
        why = (
            f"some images lie in {_listed(flat)} itself and some in folders below"
            if flat
            else f"several outer folders hold one of the same name ({_listed([n for n, k in leaves.items() if k > 1])})"
            if max(leaves.values()) > 1
            else "all lies in one outer folder"
            if len(tops) == 1
            else None
        )
        if why is not None:
            raise SystemExit(
                f"{base}: folders lie in folders and {why}, so the classes are not clear; --classes_at top: {outer}; "
                f"--classes_at leaf: {inner}"
            )
        at = "leaf"
        _note(f"the classes are the inner folders ({inner}); --classes_at top takes the outer ones ({outer})")
    return at


def say_alike(names: Iterable[str]) -> None:
    """Note the classes whose names differ by case, blanks, `-`, `_`, the form of their accents or a plural only: what is
    spelled otherwise in another split would be another class."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        word = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name)).casefold()
        word = re.sub(r"(?<=[^\W\d_]{2})(ies|y)$|(?<=(?:ch|sh|.x|.s))es$|(?<=[^\W\d_]{2}[^\W\d_s])s$", "", word)
        alike.setdefault(word, []).append(name)
    several = [some for some in alike.values() if len(some) > 1]
    for some in several[:SHOWN]:
        spelt = ", ".join(repr(name) if name.isascii() else f"{name!r} ({name!a})" for name in some)
        _note(f"{spelt} may be one class in several spellings; give them one name if so")
    if len(several) > SHOWN:
        _note(f"and {len(several) - SHOWN} more groups of names that may be one class each")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _others(names: Sequence[str]) -> str:
    return f" (--split reads the others: {', '.join(names)})" if names else ""


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
