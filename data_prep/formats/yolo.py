"""YOLO text files: one per image, one line per object, in shares of the image.

Ultralytics and Roboflow (`data.yaml`; `images/train` beside `labels/train`, or `train/images` beside `train/labels`), Darknet
(`obj.data`, `obj.names`) and LabelImg (`classes.txt`, text files beside the images). A line is `class cx cy w h`, or `class x1
y1 x2 y2 ...` for rotated boxes and polygons, or a box and keypoints where the yaml states `kpt_shape`; a whole number after
these is CVAT's track id. An empty file says that nothing is in its image. An image without a file has not been annotated, as
far as its folder says.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from data_prep.formats.gathering import Gathering, OneImage, Tree, note, number, read_text, some, split_in, suffix
from data_prep.formats.levels import names_above
from data_prep.formats.shapes import Corners, around, pairs
from data_prep.image_finding import split_of

LABEL_FOLDERS = ("labels", "label", "annotations", "annotation", "labels_txt", "txt")
OWN_FOLDERS = ("labels", "label", "obj_train_data", "obj_valid_data", "obj_test_data")
"""Text files in these folders are labels, whether or not there is an image for them."""
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt", "labels.txt", "class.txt", "names.txt")
OUTSIDE = 2.0
"""Shares of the image beyond this are no shares (an object may stick out of its image a little)."""


@dataclass(frozen=True)
class Classes:
    """Class names by number, the file they stand in, and what else that file says."""

    names: Mapping[int, str]
    file: str
    keypoints: tuple[int, int] | None = None
    splits: Mapping[str, Sequence[str]] | None = None


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    labels = files_of(tree)
    lines = _lines(tree, labels)
    if not labels or sum(map(_is_object, lines)) * 2 < len(lines):
        return None
    named = _yaml_files(tree) or [name for name in tree.files if PurePosixPath(name).name.lower() in NAME_FILES]
    if not lines and not named:
        return None
    return f"{len(labels)} text files beside images, names in {some(named) or 'no file'}"


def _lines(tree: Tree, labels: Sequence[str]) -> list[str]:
    return [line for name in labels[:20] for line in tree.head(name).splitlines()[:3] if line.strip()]


def _is_object(line: str) -> bool:
    words = line.split()
    return len(words) >= 5 and bool(re.fullmatch(r"\d+(\.0*)?", words[0])) and all(map(_is_number, words[1:]))


def _is_number(word: str) -> bool:
    try:
        number(word)
    except ValueError:
        return False
    return True


def _yaml_files(tree: Tree) -> list[str]:
    return [name for name in tree.with_suffix(".yaml", ".yml") if re.search(r"^names\s*:", tree.head(name), re.M)]


def files_of(tree: Tree) -> list[str]:
    """The text files that belong to images, by their names, or that lie in a folder of labels. Where some folders have lines of
    YOLO and others only other lines (VisDrone's own files beside those made of them), those of the others are none."""
    stems = set(map(_stem, tree.images))
    folders: dict[str, list[str]] = {}
    for name in tree.with_suffix(".txt"):
        folder, _, file = name.rpartition("/")
        is_label = _stem(name) in stems or any(part.lower() in OWN_FOLDERS for part in folder.split("/"))
        if is_label and file.lower() not in NAME_FILES:
            folders.setdefault(folder, []).append(name)
    if len(folders) > 1:
        of_yolo = {folder: list(map(_is_object, _lines(tree, names))) for folder, names in folders.items()}
        if any(map(any, of_yolo.values())):
            folders = {folder: names for folder, names in folders.items() if any(of_yolo[folder]) or not of_yolo[folder]}
    return sorted(name for names in folders.values() for name in names)


def _stem(name: str) -> str:
    """The file name without its suffix; paths are texts here, as there may be hundreds of thousands."""
    return os.path.splitext(name.rpartition("/")[2])[0]


@cache
def _label_folders(folder: str) -> tuple[str, ...]:
    """Where text files of the images of a folder may lie, each with a slash at its end: in the twin of the folder
    (`images/train`, `labels/train`), beside the images, or in a folder of labels next to them."""
    parts = folder.split("/") if folder else []
    found = []
    for place in reversed(range(len(parts))):
        if parts[place].lower() in IMAGE_FOLDERS:
            twins = (twin for label in LABEL_FOLDERS for twin in (label, label.capitalize()))
            found += ["/".join([*parts[:place], twin, *parts[place + 1 :]]) for twin in twins]
    found += [folder, *("/".join([*parts, label]) for label in LABEL_FOLDERS)]
    return tuple(f"{one}/" if one else "" for one in found)


def _labels_of(tree: Tree, labels: Sequence[str]) -> dict[str, str]:
    """Image → its text file: by the usual places, or the only file of the name anywhere in the same split."""
    known = set(labels)
    by_stem: dict[str, list[str]] = {}
    for name in labels:
        by_stem.setdefault(_stem(name), []).append(name)
    n_of_stem = Counter(map(_stem, tree.images))
    found = {}
    for image in tree.images:
        stem = _stem(image)
        same_stem = by_stem.get(stem, [])
        if not same_stem:
            continue
        places = (f"{folder}{stem}.txt" for folder in _label_folders(image.rpartition("/")[0]))
        file = next((name for name in places if name in known), None)
        if file is None and len(same_stem) == n_of_stem[stem] == 1 and split_in(same_stem[0]) in (None, split_in(image)):
            file = same_stem[0]
        if file is not None:
            found[image] = file
    return found


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all images of the tree."""
    labels = files_of(tree)
    classes = _classes(tree)
    gathering.declare(classes.names.values())
    split_of_image = _listed_splits(tree, classes)
    file_of = _labels_of(tree, labels)
    used: set[str] = set()
    n_images_of = Counter(file_of.values())
    for image in tree.images:
        file = file_of.get(image)
        split = split_of_image.get(image) or split_in(image)
        one = gathering.image(str(tree.path(file)) if file else str(tree.images_root / image), split=split)
        if file is not None:
            used.add(file)
            _read_file(tree.text(file), classes, one)
            if n_images_of[file] > 1:
                others = some([name for name in tree.images if file_of.get(name) == file and name != image])
                one.missing(f"it is the file of labels of {image} and of {others}: it is not known whose they are")
                continue
        one.done(tree.images_root / image, searched=file is not None, coords="norm1")
    for name in labels:
        if name not in used and (not tree.head(name).strip() or _is_object(tree.head(name).splitlines()[0])):
            one = gathering.image(str(tree.path(name)))
            _read_file(tree.text(name), classes, one)
            one.missing(f"no image for this file of labels below {tree.images_root}")


def _read_file(text: str, classes: Classes, one: OneImage) -> None:
    for line_number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        place = f"line {line_number}"
        name = classes.names.get(int(float(words[0]))) if re.fullmatch(r"\d+(\.0*)?", words[0]) else None
        if name is None:
            problem = f"class {words[0]!r} has no name in {classes.file} (0 to {len(classes.names) - 1})"
            one.unreadable("box", None, place, problem, "classes that have no name")
            continue
        kind = "box" if len(words) in (5, 6) or classes.keypoints else "polygon"
        one.box(kind, name, lambda words=words: _corners(words[1:], classes.keypoints), place)  # type: ignore[misc]


def _corners(words: Sequence[str], keypoints: tuple[int, int] | None) -> Corners:
    """The box of the numbers after the class, in shares of the image."""
    values = [number(word) for word in words]
    usual = {4} if keypoints is None else {4, 4 + keypoints[0] * keypoints[1]}
    if len(values) not in usual and (len(values) % 2 if keypoints is None else len(values) - 1 in usual):
        if not re.fullmatch(r"\d+", words[-1]) or len(values) < 5:
            raise ValueError(
                f"{len(values)} numbers after the class, the last {words[-1]}: a confidence? Predictions are no annotations"
            )
        values.pop()
    if any(not -OUTSIDE < value < 1 + OUTSIDE for value in values[:4]):
        raise ValueError(f"{values[:4]} are no shares of the image (0 to 1)")
    if keypoints is not None and len(values) not in usual:
        raise ValueError(f"{len(values)} numbers after the class, kpt_shape {list(keypoints)} needs {max(usual)}")
    if len(values) in usual:
        cx, cy, width, height = values[:4]
        if min(width, height) <= 0:
            raise ValueError(f"width {width:g} and height {height:g}")
        return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
    corners = around(pairs(values))
    if any(not -OUTSIDE < value < 1 + OUTSIDE for value in corners):
        raise ValueError(f"{[*corners]} are no shares of the image (0 to 1)")
    return corners


def _classes(tree: Tree) -> Classes:
    """The class names; ends the program where there are none, or two lists that differ."""
    if tree.options.names is not None:
        return _of_file(tree.options.names, tree)
    found = [_of_yaml(tree.path(name), tree) for name in _yaml_files(tree)]
    if not found:
        files = [name for name in tree.files if PurePosixPath(name).name.lower() in NAME_FILES]
        found = [one for one in (_of_lines(tree.path(name), tree) for name in files) if one.names]
    if not found and (above := names_above(tree.root)):
        note(f"{tree.root} has no file of class names; {above[0]} is taken")
        found = [_of_file(path, tree) for path in above]
    if not found:
        raise SystemExit(
            f"{tree.root}: no class names (data.yaml, obj.names or classes.txt); give a file of them, one a line, with --names"
        )
    different = [one for one in found if dict(one.names) != dict(found[0].names)]
    if different:
        raise SystemExit(f"{found[0].file} and {different[0].file} give different class names; give the right one with --names")
    twice = [name for name, n in Counter(found[0].names.values()).items() if n > 1]
    if twice:
        note(f"{found[0].file}: several numbers have one name ({some(twice)}); they are one category")
    numeric = [name for name in found[0].names.values() if name.isdigit()]
    if numeric:
        note(f"{found[0].file}: class names are numbers ({some(numeric)}) and are asked for as such; --names FILE gives others")
    return found[0]


def _of_file(path: Path, tree: Tree) -> Classes:
    return _of_yaml(path, tree) if suffix(path.name) in (".yaml", ".yml") else _of_lines(path, tree)


def folder_of(path: Path) -> Path:
    """The folder of the set that a yaml file describes: its `path`, where that is there, else the folder of the file."""
    found = re.search(r"^path\s*:\s*([^#\n]+)", read_text(path), re.M)
    stated = found.group(1).strip(" '\"\r") if found else ""
    folder = path.parent / stated
    return folder if stated and folder.is_dir() else path.parent


def _of_yaml(path: Path, tree: Tree) -> Classes:
    """Everything is read as text: YAML takes `no`, `on` and `1e3` for other things than names."""
    try:
        content = yaml.load(read_text(path, tree.options.encoding), yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise SystemExit(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, str) and re.fullmatch(r"\S+\.(txt|names)", names.strip()):
        file = path.parent / names.strip()
        if not file.is_file():
            raise SystemExit(f"{path}: names is the file {names.strip()}, and there is none; give it with --names")
        names = list(_of_lines(file, tree).names.values())
    if isinstance(names, str) and names.strip():
        names = [word.strip(" '\"") for word in names.strip("[]() ").rstrip(",").split(",")]
    pairs_of = list(names.items()) if isinstance(names, dict) else list(enumerate(names)) if isinstance(names, list) else []
    if not pairs_of or any(not str(key).isdigit() or not isinstance(name, str) or not name.strip() for key, name in pairs_of):
        raise SystemExit(f"{path}: names must be a list of names or a map of number to name, not {str(names)[:200]}")
    stated = content.get("nc")
    if stated is not None and stated != str(len(pairs_of)):
        raise SystemExit(f"{path}: nc is {stated}, but {len(pairs_of)} names are given; correct one of them")
    shape = content.get("kpt_shape")
    keypoints = None
    if shape is not None:
        if not (isinstance(shape, list) and len(shape) == 2 and all(str(part).isdigit() for part in shape)):
            raise SystemExit(f"{path}: kpt_shape must be two whole numbers, not {shape}")
        keypoints = int(shape[0]), int(shape[1])
    splits = {part: _listed(content.get(part)) for part in ("train", "val", "valid", "test") if content.get(part)}
    numbered = sorted((int(key), " ".join(name.split())) for key, name in pairs_of)
    return Classes(dict(numbered), str(path), keypoints, splits)


def _of_lines(path: Path, tree: Tree) -> Classes:
    lines = [" ".join(line.split()) for line in read_text(path, tree.options.encoding).strip("\n").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise SystemExit(f"{path}: line {lines.index('') + 1} is empty, so the numbers of the later names are not certain")
    numbered = [re.fullmatch(r"(\d+)\s*[:,.)]?\s+(\D.*)", line) for line in lines]
    if lines and all(found is not None and int(found.group(1)) == place for place, found in enumerate(numbered)):
        note(f"{path}: its lines begin with their numbers, which are no part of the names")
        lines = [found.group(2) for found in numbered if found is not None]
    splits: dict[str, list[str]] = {}
    for name in tree.with_suffix(".data"):
        found = re.findall(r"^\s*(train|valid|val|test)\s*=\s*(\S.*)$", tree.text(name), re.M)
        splits.update({part: [value.strip()] for part, value in found})
    return Classes(dict(enumerate(lines)), str(path), None, splits)


def _listed(value: Any) -> list[str]:
    return (
        [value] if isinstance(value, str) else [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
    )


def _listed_splits(tree: Tree, classes: Classes) -> dict[str, str]:
    """Image → the split whose list of files (train.txt) names it. Splits that are folders are known by their names."""
    found: dict[str, str] = {}
    by_name: dict[str, list[str]] = {}
    for image in tree.images:
        by_name.setdefault(PurePosixPath(image).name, []).append(image)
    for part, values in (classes.splits or {}).items():
        for value in values:
            base = PurePosixPath(value).name
            files = [name for name in tree.with_suffix(".txt") if PurePosixPath(name).name == base]
            for line in tree.text(files[0]).splitlines() if len(files) == 1 and suffix(base) == ".txt" else ():
                wanted = line.strip().replace("\\", "/")
                ends = [
                    image
                    for image in by_name.get(PurePosixPath(wanted).name, ())
                    if wanted.endswith(image) or image.endswith(wanted.removeprefix("data/").removeprefix("./"))
                ]
                if len(ends) == 1:
                    found[ends[0]] = split_of(part) or part
    return found
