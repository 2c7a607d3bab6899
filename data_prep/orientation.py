"""Which pixels the boxes of a photograph count: those stored in the file, or those shown once its EXIF rotation is applied.

Phones store a photograph turned and say so in EXIF. Some annotation tools turn it before they show it, others do not. Training
and evaluation see it as shown, so boxes in stored pixels are turned here. The size that the annotation states decides; where it
cannot (no size, a square image, a half turn), a box that fits one of the two only; else the other images of the set, if they
all agree. Where nothing decides, the image is left out until `--boxes_in` says which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from data_prep.annotated import Annotated
from data_prep.image_headers import Header
from data_prep.report import Report
from vlrl.schema import Box

STORED, SHOWN, CONTRADICTED = "stored", "shown", "contradicted"
_OTHER = {STORED: SHOWN, SHOWN: STORED}
FAR = 0.05
"""A box that ends this share of the image's side beyond its edge is not drawn carelessly: it is in other pixels."""
_KIND = "photographs turned by EXIF, and nothing says whether their boxes count stored or shown pixels (--boxes_in)"


class SizeMismatch(ValueError):
    """The annotation states another size than the image has."""


def frame_of(one: Annotated, header: Header, boxes_in: str) -> str | None:
    """STORED or SHOWN, as the stated size and the boxes of this image decide, or `boxes_in` where it is not "auto"; None:
    undecided; CONTRADICTED: the boxes fit the other one only. Raises SizeMismatch."""
    if header.orientation == 1 and one.size_wh in (None, header.shown_wh):
        return SHOWN
    sizes = {STORED: header.stored_wh, SHOWN: header.shown_wh}
    stated = {name for name, size_wh in sizes.items() if one.size_wh in (None, size_wh)}
    if not stated:
        said, real = ("x".join(map(str, size)) for size in (one.size_wh or (), header.shown_wh))
        raise SizeMismatch(f"stated size is {said} but {one.path} is {real}; its boxes may be in other pixels")
    if header.orientation == 1:
        return SHOWN
    if boxes_in != "auto":
        return boxes_in
    speaks = one.coords == "px" and header.stored_wh != header.shown_wh
    fitted = [name for name in (STORED, SHOWN) if speaks and _only_fit(one, sizes[name], sizes[_OTHER[name]])]
    if len(stated) == 2:
        return fitted[0] if fitted else None
    return CONTRADICTED if fitted and fitted[0] not in stated else next(iter(stated))


def decided(frames: Sequence[str | None], images: Sequence[tuple[Annotated, Header]], report: Report) -> list[str | None]:
    """The frames with the undecided ones decided by the others, where all of those agree. None remains for images that must
    be left out; they are reported. An image without boxes needs no decision."""
    known = Counter(
        frame for frame, (one, header) in zip(frames, images, strict=True) if frame and header.orientation > 1 and one.boxes
    )
    agreed = next(iter(known)) if len(known) == 1 and CONTRADICTED not in known else None
    frames = [None if frame == CONTRADICTED else frame for frame in frames]
    result: list[str | None] = []
    for frame, (one, header) in zip(frames, images, strict=True):
        if frame is None and not one.boxes:
            frame = SHOWN
        elif frame is None and agreed is not None:
            frame = agreed
            kind = f"boxes of photographs turned by EXIF are taken as {agreed} pixels, as in the rest of the set"
            report.note(one.where, f"its boxes are taken as {agreed} pixels, like those of {known[agreed]} other images", kind)
        elif frame is None:
            problem = (
                f"{one.path} is turned by EXIF (orientation {header.orientation}), and nothing says whether its boxes count the"
                " pixels stored or those shown; look at some and pass --boxes_in stored or --boxes_in shown"
            )
            report.bad(one.where, problem, _KIND, what="images", is_read=True)
            report.lost["annotations"] += len(one.boxes)
        result.append(frame)
    return result


def turned(box: Box, stored_wh: tuple[int, int], orientation: int) -> Box:
    """A box in stored pixels as it lies in the image shown. `orientation`: of EXIF, 1 to 8."""
    width, height = stored_wh
    x1, y1, x2, y2 = box.xyxy
    corners: Mapping[int, tuple[float, float, float, float]] = {
        1: (x1, y1, x2, y2),
        2: (width - x2, y1, width - x1, y2),
        3: (width - x2, height - y2, width - x1, height - y1),
        4: (x1, height - y2, x2, height - y1),
        5: (y1, x1, y2, x2),
        6: (height - y2, x1, height - y1, x2),
        7: (height - y2, width - x2, height - y1, width - x1),
        8: (y1, width - x2, y2, width - x1),
    }
    return Box(*corners[orientation], box.label)


def _only_fit(one: Annotated, size_wh: tuple[int, int], other_wh: tuple[int, int]) -> bool:
    """Whether all boxes lie inside an image of this size, up to 1 px of rounding, and one is far outside the other."""
    highest = [max((getattr(box, side) for box in one.boxes), default=0.0) for side in ("x2", "y2")]
    fits = all(high <= side + 1 for high, side in zip(highest, size_wh, strict=True))
    return fits and any(high > side * (1 + FAR) for high, side in zip(highest, other_wh, strict=True))
