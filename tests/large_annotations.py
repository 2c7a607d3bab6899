"""Measures a converter on a set as large as COCO's train2017: 118,000 images, 860,000 boxes with polygons.

    python tests/large_annotations.py /tmp/large            # writes about 1 GB there once, then converts and prints the figures

The images are 118,000 files of a few kB: converters read headers only. Prints CPU seconds, seconds by the clock and peak memory of
`data_prep/coco.py`, as a process of its own. Not a test: it takes two minutes.
"""

import argparse
import io
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

N_IMAGES, N_BOXES, N_CATEGORIES = 118_000, 860_000, 80
ROOT = Path(__file__).resolve().parents[1]


def write(folder: Path, n_images: int, n_boxes: int) -> None:
    """Images of 640x480 and an instances file, boxes drawn by seed 0."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    encoded = io.BytesIO()
    Image.new("RGB", (640, 480), (90, 120, 150)).save(encoded, "JPEG", quality=30)
    draw = random.Random(0)
    with (folder / "instances_large2017.json").open("w", encoding="utf-8") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for i in range(n_images):
            (folder / "images" / f"{i + 1:012}.jpg").write_bytes(encoded.getvalue())
            row = {"id": i + 1, "file_name": f"{i + 1:012}.jpg", "width": 640, "height": 480, "license": 1}
            row |= {
                "coco_url": f"http://images.cocodataset.org/train2017/{i + 1:012}.jpg",
                "date_captured": "2013-11-14 17:02:52",
            }
            file.write(f"{', ' if i else ''}{json.dumps(row)}")
        file.write('], "annotations": [')
        for i in range(n_boxes):
            x, y = round(draw.uniform(0, 500), 2), round(draw.uniform(0, 380), 2)
            width, height = round(draw.uniform(5, 139), 2), round(draw.uniform(5, 99), 2)
            polygon = [round(v, 2) for k in range(20) for v in (x + width * (k % 5) / 4, y + height * (k // 5) / 3)]
            row = {"segmentation": [polygon], "area": round(width * height * 0.6, 2), "iscrowd": 0}
            image = draw.randrange(n_images)
            # three categories an image, as COCO has on average
            category = (7 * image + 13 * draw.randrange(3)) % N_CATEGORIES
            row |= {"image_id": image + 1, "bbox": [x, y, width, height], "category_id": category + 1, "id": i + 1}
            file.write(f"{', ' if i else ''}{json.dumps(row)}")
        names = [{"id": i + 1, "name": f"thing {i + 1}", "supercategory": "things"} for i in range(N_CATEGORIES)]
        file.write(f'], "categories": {json.dumps(names)}}}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=N_IMAGES)
    parser.add_argument("--boxes", type=int, default=N_BOXES)
    parser.add_argument("options", nargs="*", help="further options of data_prep/coco.py, after --")
    args = parser.parse_args()
    if not (args.folder / "instances_large2017.json").exists():
        write(args.folder, args.images, args.boxes)
    command = [sys.executable, str(ROOT / "data_prep/coco.py"), "--instances", str(args.folder / "instances_large2017.json")]
    command += [
        "--images",
        str(args.folder / "images"),
        "--out",
        str(args.folder / "samples.jsonl"),
        "--overwrite",
        *args.options,
    ]
    started = time.monotonic()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"CPU        {used.ru_utime + used.ru_stime:.0f} s")
    print(f"clock      {time.monotonic() - started:.0f} s")
    print(f"memory     {used.ru_maxrss / 1024:.0f} MiB at most")


if __name__ == "__main__":
    main()
