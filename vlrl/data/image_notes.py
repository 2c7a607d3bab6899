"""What a person should know of the images of a set before they are used: more than 8 bits a channel, several pages, and formats
that need a library which is not installed. Headers alone are read, and the pixels of deep images. No torch.

Training, `vlrl bench run` and `vlrl bench check` say these lines once a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vlrl.data.deep_images import RULE, holds_one_value, is_deep
from vlrl.data.images import ImageError, can_open, opened_image
from vlrl.data.sample_json import file_of
from vlrl.schema import Sample, SampleError

ADDED_FORMATS = {".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC", ".avif": "AVIF"}
"""Suffixes of formats that Pillow reads with a library of the extra `[images]`."""
_MAX_ROWS = 20_000
_ONE_PICTURE = ("MPO", "ICO", "ICNS")
"""Formats that hold one picture in several sizes or views."""


def form_notes(samples: Sequence[Sample], what: str = "images") -> list[str]:
    """A line about images of more than 8 bits a channel, one about those among them that hold a single value, and one about
    files of several pages or frames, where there are any.
    `what`: what the counts are of ("drawn images"). Images that cannot be opened are left to other checks."""
    deep: list[str] = []
    several: list[str] = []
    blank: list[str] = []
    paths = list(dict.fromkeys(path for one in samples for path in one.images if not path.startswith("synthetic:")))
    for path in paths:
        try:
            with opened_image(path) as image:
                if is_deep(image):
                    deep.append(f"{path} ({image.format}, mode {image.mode})")
                    if holds_one_value(image):
                        blank.append(path)
                if image.format not in _ONE_PICTURE and getattr(image, "is_animated", False):
                    several.append(f"{path} ({image.format})")
        except ImageError:
            continue
    count, notes = f"of {len(paths):,} {what}", []
    if deep:
        notes.append(f"{len(deep):,} {count} have more than 8 bits a channel, the first: {deep[0]}; they are shown {RULE}")
    if blank:
        notes.append(
            f"{len(blank):,} {count} hold one value everywhere, or nothing that is a number (NaN, no data), so nothing can be"
            f" seen on them; the first: {blank[0]}"
        )
    if several:
        notes.append(f"{len(several):,} {count} hold several pages or frames, the first: {several[0]}; the first one is shown")
    return notes


def refuse_unreadable_formats(samples: Sequence[Sample], where: str) -> None:
    """Raises SampleError, with the count, where images have a format for which a library is missing. Of a large set rows at
    even distances are looked at."""
    suffixes: Counter[str] = Counter()
    n_images = 0
    for place in range(0, len(samples), max(1, len(samples) // _MAX_ROWS)):
        for path in samples[place].images:
            n_images += 1
            named = path if file_of(path) == path else path.rpartition("#")[2]
            if kind := ADDED_FORMATS.get(Path(named).suffix.lower()):
                suffixes[kind] += 1
    missing = {kind: n for kind, n in suffixes.items() if not can_open(kind)}
    if missing:
        counts = ", ".join(f"{n:,} of {n_images:,} images are {kind}" for kind, n in missing.items())
        raise SampleError(f"{where}: {counts}, which Pillow cannot read here; pip install 'vlrl[images]', or convert them")
