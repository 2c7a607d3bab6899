"""Real annotation sets come in by one command, and equal an independent reading; skipped where VLRL_REAL_DATA names none."""

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from data_prep import annotations
from vlrl.data.sample_files import read_samples

pytestmark = pytest.mark.quick

REAL = Path(os.environ.get("VLRL_REAL_DATA", "nowhere"))


def run(root, tmp_path, *options):
    out = tmp_path / "samples.jsonl"
    code = annotations.main(["--root", str(root), "--out", str(out), "--overwrite", *map(str, options)])
    return read_samples(out) if code == 0 else code


@pytest.mark.skipif(not (REAL / "kudzu").is_dir(), reason="VLRL_REAL_DATA names no folder with kudzu/ (VIA polygons)")
def test_real_polygons_of_via_equal_another_reading(tmp_path):
    """Its two files have the label under two attributes, or none at all."""
    truth = {}
    for part in ("train", "val"):
        for entry in json.loads((REAL / "kudzu" / part / "via_region_data.json").read_text()).values():
            shapes = [region["shape_attributes"] for region in entry["regions"]]
            ends = [
                [min(s["all_points_x"]), min(s["all_points_y"]), max(s["all_points_x"]), max(s["all_points_y"])] for s in shapes
            ]
            truth[part, entry["filename"]] = sorted(ends)
    samples = run(REAL / "kudzu", tmp_path, "--label", "kudzu")
    found = {(s.meta["split"], Path(s.images[0]).name): sorted(item["bbox_2d"] for item in s.answer) for s in samples}
    assert found == truth
    assert sum(map(len, found.values())) > 500


def of_bccd():
    """(image, label, x1, y1, x2, y2) of each object of the XML files that has an area; the files count from 1."""
    for path in (REAL / "bccd/Annotations").glob("*.xml"):
        root = ElementTree.parse(path).getroot()
        width, height = (int(root.findtext(f"size/{side}")) for side in ("width", "height"))
        for one in root.iter("object"):
            x1, y1, x2, y2 = (int(one.find("bndbox").findtext(end)) for end in ("xmin", "ymin", "xmax", "ymax"))
            if x1 < x2 and y1 < y2:
                yield path.stem, one.findtext("name"), max(x1 - 1, 0), max(y1 - 1, 0), min(x2, width), min(y2, height)


def of_rbc():
    """The same of the three files of COCO's form."""
    for path in (REAL / "rbc").rglob("_annotations.coco.json"):
        content = json.loads(path.read_text())
        stem = {row["id"]: Path(row["file_name"]).stem for row in content["images"]}
        name = {row["id"]: row["name"] for row in content["categories"]}
        for row in content["annotations"]:
            x, y, width, height = row["bbox"]
            yield stem[row["image_id"]], name[row["category_id"]], x, y, x + width, y + height


@pytest.mark.skipif(not (REAL / "bccd").is_dir(), reason="VLRL_REAL_DATA names no folder with bccd/ and rbc/ (VOC, COCO)")
@pytest.mark.parametrize(("name", "truth"), [("bccd", of_bccd), ("rbc", of_rbc)])
def test_real_sets_come_in_by_one_command_and_equal_another_reading(tmp_path, name, truth):
    samples = run(REAL / name, tmp_path)
    found = [(Path(s.images[0]).stem, box["label"], *box["bbox_2d"]) for s in samples for box in s.answer]
    assert len(found) > 4000
    assert sorted(found) == sorted((*one[:2], *(round(value, 4) for value in one[2:])) for one in truth())
