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

STORED, SHOWN = "stored", "shown"
_KIND = "photographs turned by EXIF, and nothing says whether their boxes count stored or shown pixels (--boxes_in)"


class SizeMismatch(ValueError):
    """The annotation states another size than the image has."""


def frame_of(one: Annotated, header: Header, boxes_in: str) -> str | None:
    """STORED or SHOWN, as the stated size and the boxes of this image decide, or `boxes_in` where it is not "auto"; None:
    undecided. Raises SizeMismatch."""
    allowed = {STORED: header.stored_wh, SHOWN: header.shown_wh}
    if boxes_in != "auto":
        allowed = {boxes_in: allowed[boxes_in]}
    if one.size_wh is not None:
        allowed = {name: size_wh for name, size_wh in allowed.items() if size_wh == one.size_wh}
        if not allowed:
            stated, real = ("x".join(map(str, size)) for size in (one.size_wh, header.shown_wh))
            raise SizeMismatch(f"stated size is {stated} but {one.path} is {real}; its boxes may be in other pixels")
    if header.orientation == 1:
        return SHOWN
    if len(allowed) == 2 and one.coords == "px" and header.stored_wh != header.shown_wh:
        allowed = {name: size for name, size in allowed.items() if all(_fits(box, size) for box in one.boxes)} or allowed
    return next(iter(allowed)) if len(allowed) == 1 else None


def decided(frames: Sequence[str | None], images: Sequence[tuple[Annotated, Header]], report: Report) -> list[str | None]:
    """The frames with the undecided ones decided by the others, where all of those agree. None remains for images that must
    be left out; they are reported. An image without boxes needs no decision."""
    known = Counter(
        frame for frame, (one, header) in zip(frames, images, strict=True) if frame and header.orientation > 1 and one.boxes
    )
    agreed = next(iter(known)) if len(known) == 1 else None
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


def _fits(box: Box, size_wh: tuple[int, int]) -> bool:
    """Whether the box lies inside, up to 1 px of rounding."""
    return box.x1 >= -1 and box.y1 >= -1 and box.x2 <= size_wh[0] + 1 and box.y2 <= size_wh[1] + 1
