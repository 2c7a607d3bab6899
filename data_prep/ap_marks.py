"""What the numbers of COCO and LVIS need beside boxes: each object's own area, LVIS' frequency of categories, and categories
that are not annotated in full in an image.

COCO tells small from large by the area of an object's outline, not of its box. `--for_ap` of the converters writes it as `area`
of an answer's item, and `meta.frequency` and `meta.not_exhaustive` for LVIS (`vlrl bench run --protocol coco | lvis`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.box_values import Corners, corners, id_key
from data_prep.fitting import tidy
from data_prep.json_stream import entries

FREQUENCIES = ("r", "c", "f")


@dataclass(frozen=True)
class ApMarks:
    """`areas`: image id → corners of a box as samples write them → area in square pixels. `not_exhaustive`: image id →
    categories of which it has more objects. `frequency`: category → r, c or f."""

    areas: Mapping[str, Mapping[Corners, float]]
    not_exhaustive: Mapping[str, frozenset[str]] = field(default_factory=dict)
    frequency: Mapping[str, str] = field(default_factory=dict)

    def item(self, source_id: str, item: dict[str, Any]) -> dict[str, Any]:
        """An answer's item with its area, where the file states one; a box that was cut at the image's edge keeps that of the
        box."""
        x1, y1, x2, y2 = item["bbox_2d"]
        area_px2 = self.areas.get(source_id, {}).get((x1, y1, x2, y2))
        return item if area_px2 is None else {**item, "area": area_px2}

    def meta(self, source_id: str, requested: tuple[str, ...]) -> dict[str, Any]:
        """What a sample that asks for these categories states."""
        partial = self.not_exhaustive.get(source_id, frozenset())
        return {
            "not_exhaustive": [name for name in requested if name in partial],
            "frequency": {name: self.frequency[name] for name in requested if name in self.frequency},
        }


def read_areas(path: Path, bbox_format: str | None = None, encoding: str | None = None) -> dict[str, dict[Corners, float]]:
    """The areas of an instances file, by image id and box."""
    found: dict[str, dict[Corners, float]] = {}
    for key, is_entry, row in entries(path, "segmentation", encoding):
        if not is_entry or key != "annotations" or not isinstance(row, dict):
            continue
        image, box, area_px2 = id_key(row.get("image_id")), corners(row.get("bbox"), bbox_format or "xywh"), row.get("area")
        if image is None or box is None or not isinstance(area_px2, int | float) or isinstance(area_px2, bool):
            continue
        if 0 <= area_px2 < float("inf"):
            x1, y1, x2, y2 = map(tidy, box)
            found.setdefault(str(image), {})[x1, y1, x2, y2] = area_px2
    return found


def read_frequencies(path: Path, names: Mapping[str, str], encoding: str | None = None) -> dict[str, str]:
    """Category name → its frequency, of an LVIS file. Ends the program where a category has none."""
    found: dict[str, str] = {}
    for key, is_entry, row in entries(path, "segmentation", encoding):
        if is_entry and key == "categories" and isinstance(row, dict):
            name = names.get(str(id_key(row.get("id"))))
            if name is not None and row.get("frequency") in FREQUENCIES:
                found[name] = row["frequency"]
    lacking = [name for name in names.values() if name not in found]
    if lacking:
        raise SystemExit(
            f"{path}: --for_ap: {len(lacking)} categories have no 'frequency' (r, c or f), the first {lacking[0]!r}"
        )
    return found
