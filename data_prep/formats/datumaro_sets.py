"""Formats that have no reader of their own here, by way of the library datumaro (extra `[data]`).

datumaro leaves out what it cannot read without a word in some formats (docs/data.md lists what was tried). So nothing is asked
as absent from what it reads, and what it does say - errors, warnings, labels and shapes without a box - is counted and
printed.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.formats.gathering import Gathering, OneImage, Tree, note
from data_prep.formats.shapes import Corners, around, pairs, turned
from data_prep.image_finding import split_of

AREAS = ("bbox", "polygon", "ellipse", "rotated_bbox")
"""Shapes that are one object each. A mask may be all pixels of a category: it is no box here."""
_READ_HERE = "yolo coco voc cvat open_images kitti roboflow_ vott_ dota"
OWN = (*_READ_HERE.split(), "image_", "imagenet", "arrow", "tabular")
"""Formats (beginnings of their names) that are read by this project's own readers, and those without boxes."""


def available() -> bool:
    """Whether datumaro is installed. Ends the program where it is and cannot be imported."""
    # a script's folder comes first in the path, and files there hide libraries of their names (json_stream) that datumaro needs
    scripts = Path(__file__).resolve().parents[1]
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != scripts]
    pandas = sys.modules.get("pandas")
    try:
        import datumaro  # noqa: F401
    except ImportError as error:
        if error.name == "datumaro":
            return False
        raise SystemExit(f"datumaro is installed and cannot be imported: {error}") from error
    if pandas is not None:  # datumaro puts a second one in its place, which cannot write JSON beside the first
        sys.modules["pandas"] = pandas
    return True


def candidates(tree: Tree) -> list[str]:
    """The names of datumaro's formats that fit the tree, without those read here; none where it is not installed."""
    if not available():
        return []
    from datumaro.components.environment import Environment

    with _listening([]):
        try:
            found = Environment().detect_dataset(str(tree.root))
        except ImportError:  # formats of its own that need further libraries
            return []
    return [name for name in found if not name.startswith(OWN)]


def read(tree: Tree, gathering: Gathering, name: str) -> None:
    """Read the tree as datumaro's format `name`. Ends the program where datumaro is missing or cannot read it."""
    if not available():
        raise SystemExit(f"--format datumaro:{name} needs the library datumaro; pip install -e '.[data]'")
    import datumaro
    from datumaro.components.environment import Environment
    from datumaro.components.errors import DatumaroError

    known = sorted(Environment().importers)
    if name not in known:
        raise SystemExit(f"--format datumaro:{name}: datumaro has no such format; it has {', '.join(known)}")
    said: list[str] = []
    with _listening(said):
        try:
            found = datumaro.Dataset.import_from(str(tree.root), name)
            labels = [label.name for label in found.categories().get(datumaro.AnnotationType.label, ())]
            for item in found:
                _item(item, labels, tree, gathering)
        except (DatumaroError, OSError, ValueError, KeyError, IndexError, AssertionError, NotImplementedError) as error:
            cause = error.__cause__ or error
            raise SystemExit(
                f"{tree.root}: datumaro cannot read it as {name}: {type(cause).__name__}: {str(cause)[:300]}"
            ) from error
    for message in said:
        tree.report.bad(str(tree.root), f"datumaro: {message}", "warnings of datumaro", what="images")
    note(f"{name} is read by datumaro, which may leave out lines without a word: nothing is asked as absent")


@contextmanager
def _listening(said: list[str]) -> Iterator[None]:
    """What datumaro logs as a warning or an error goes to `said`; its notes to programmers go nowhere."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    root, handler = logging.getLogger(), Handler(logging.WARNING)
    before = root.handlers[:]
    root.handlers = [handler]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers = before


def _item(item: Any, labels: list[str], tree: Tree, gathering: Gathering) -> None:
    one = gathering.image(f"{tree.root}: {item.subset}/{item.id}", split=split_of(item.subset))
    for place, annotation in enumerate(item.annotations, start=1):
        label = labels[annotation.label] if getattr(annotation, "label", None) is not None else None
        _annotation(annotation, label, one, f"annotation {place}")
    one.absent = frozenset()
    path = getattr(item.media, "path", None)
    if path and os.path.isfile(path):
        one.done(Path(path))
    else:
        one.done(one.named(*([str(path).removeprefix("file:")] if path else []), str(item.id)))


def _annotation(annotation: Any, label: str | None, one: OneImage, place: str) -> None:
    kind = annotation.type.name
    if kind in AREAS:
        ignored = annotation.attributes.get("ignored") or annotation.attributes.get("is_crowd")
        if ignored is True and label is not None:
            one.set_aside("ignored object", label)
            return
        one.box(kind.replace("bbox", "box").replace("_", " "), label, _corners_of(kind, annotation), place)
    else:
        one.no_box(kind, label, place)


def _corners_of(kind: str, annotation: Any) -> Callable[[], Corners]:
    def corners() -> Corners:
        values = [float(value) for value in annotation.points]
        if kind == "polygon":
            return around(pairs(values))
        if kind == "rotated_bbox":
            cx, cy, width, height, degrees = values
            return turned((cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2), degrees)
        x1, y1, x2, y2 = values
        return x1, y1, x2, y2

    return corners
