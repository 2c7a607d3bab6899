"""The same three annotated images in every format of `data_prep/annotations.py`, in the form that its tool exports.

`a.jpg` has a red and a blue box, `neg.jpg` nothing, and the third, with an umlaut, a blank and a Chinese character in its name, a
red one. All are 200x100.
"""

import base64
import csv
import io
import json
import zlib
from xml.sax.saxutils import quoteattr

from PIL import Image

RED, BLUE = (20, 10, 60, 50), (100, 20, 180, 80)
SIZE = W, H = 200, 100
THIRD = "Größe 图 1.jpg"
TRUTH = {"a.jpg": [("red", RED), ("blue", BLUE)], "neg.jpg": [], THIRD: [("red", RED)]}
NAMES = ("red", "blue")


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def pictures(folder, names=TRUTH, size=SIZE, suffix=None):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        path = folder / name
        Image.new("RGB", size, (60 * i, 120, 200 - 40 * i)).save(path if suffix is None else path.with_suffix(suffix))


def corners(box):
    x1, y1, x2, y2 = box
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def png(box, mode="L"):
    """A mask of the size of the box, all set, as PNG bytes."""
    out = io.BytesIO()
    size = box[2] - box[0], box[3] - box[1]
    Image.new(mode, size, (255, 255, 255, 255) if mode == "RGBA" else 255).save(out, "PNG")
    return out.getvalue()


def yolo_line(number, box):
    x1, y1, x2, y2 = box
    return f"{number} {(x1 + x2) / 2 / W} {(y1 + y2) / 2 / H} {(x2 - x1) / W} {(y2 - y1) / H}"


def yolo_polygon(number, box):
    return f"{number} " + " ".join(f"{x / W:.6f} {y / H:.6f}" for x, y in corners(box))


def yolo(root, line=yolo_line, images="images/train", labels="labels/train"):
    """Ultralytics: https://docs.ultralytics.com/datasets/detect/"""
    pictures(root / images)
    write(root / "data.yaml", f"path: .\ntrain: {images}\nval: {images}\nnames:\n  1: blue\n  0: red\n")
    for name, objects in TRUTH.items():
        lines = "".join(line(NAMES.index(label), box) + "\n" for label, box in objects)
        write(root / labels / f"{name.removesuffix('.jpg')}.txt", lines)


def yolo_obb(root):
    yolo(root, yolo_polygon)


def yolo_roboflow(root):
    yolo(root, images="train/images", labels="train/labels")
    write(root / "data.yaml", "train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['red', 'blue']\n")


def yolo_darknet(root):
    """Also CVAT's "YOLO 1.1": https://docs.cvat.ai/docs/dataset_management/formats/format-yolo/"""
    yolo(root, images="obj_train_data", labels="obj_train_data")
    (root / "data.yaml").unlink()
    write(root / "obj.names", "red\nblue\n")
    write(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(root / "train.txt", "".join(f"data/obj_train_data/{name}\n" for name in TRUTH))


def yolo_labelimg(root):
    yolo(root, images=".", labels=".")
    (root / "data.yaml").unlink()
    write(root / "classes.txt", "red\nblue")


def cvat_shape(label, box, tag="box"):
    x1, y1, x2, y2 = box
    where = {
        "box": f'xtl="{x1:.2f}" ytl="{y1:.2f}" xbr="{x2:.2f}" ybr="{y2:.2f}"',
        "ellipse": f'cx="{(x1 + x2) / 2}" cy="{(y1 + y2) / 2}" rx="{(x2 - x1) / 2}" ry="{(y2 - y1) / 2}"',
        "mask": f'rle="0, {(x2 - x1) * (y2 - y1)}" left="{x1}" top="{y1}" width="{x2 - x1}" height="{y2 - y1}"',
    }.get(tag, 'points="' + ";".join(f"{x:.2f},{y:.2f}" for x, y in corners(box)) + '"')
    return f'<{tag} label={quoteattr(label)} source="manual" occluded="0" {where} z_order="0"></{tag}>'


def cvat_file(root, body, meta="task"):
    labels = "".join(f"<label><name>{name}</name><type>any</type><attributes></attributes></label>" for name in NAMES)
    head = f"<meta><{meta}><id>4</id><name>t</name><size>3</size><labels>{labels}</labels></{meta}><dumped>2024</dumped></meta>"
    write(root / "annotations.xml", f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{head}{body}</annotations>')  # fmt: skip


def cvat_image(number, name, inside, more=""):
    return f'<image id="{number}" name={quoteattr(name)} width="{W}" height="{H}"{more}>{inside}</image>'


def cvat(root, tags=("box", "polygon", "mask")):
    """https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/"""
    pictures(root / "images")
    shapes = iter(tags)
    body = "".join(
        cvat_image(i, name, "".join(cvat_shape(label, box, next(shapes)) for label, box in objects))
        for i, (name, objects) in enumerate(TRUTH.items())
    )
    cvat_file(root, body)


def cvat_video(root):
    pictures(root / "images", [f"frame_{i:06d}.png" for i in range(3)])
    tracks = "".join(
        f'<track id="{i}" label="{label}" source="manual">'
        + "".join(cvat_shape(label, box).replace("<box", f'<box frame="{frame}" outside="{outside}" keyframe="1"') for frame, outside in frames)
        + "</track>"
        for i, (label, box, frames) in enumerate([("red", RED, [(0, 0), (1, 1), (2, 0)]), ("blue", BLUE, [(0, 0), (1, 1)])])
    )  # fmt: skip
    cvat_file(root, tracks)


def labelme_shape(label, box, kind="rectangle", **more):
    points = [box[:2], box[2:]] if kind in ("rectangle", "mask") else corners(box)
    mask = base64.b64encode(png(box)).decode() if kind == "mask" else None
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, "mask": mask, **more}


def labelme_file(path, shapes, image, **more):
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": H,
        "imageWidth": W,
    }
    write(path, json.dumps(content | more, ensure_ascii=False, indent=2))


def labelme(root):
    """https://github.com/wkentaro/labelme"""
    pictures(root)
    kinds = iter(("rectangle", "polygon", "mask"))
    for name, objects in TRUTH.items():
        shapes = [labelme_shape(label, box, next(kinds)) for label, box in objects]
        labelme_file(root / f"{name.removesuffix('.jpg')}.json", shapes, name)


def via_region(label, box, kind="rect", key="type"):
    x1, y1, x2, y2 = box
    shape = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
    if kind == "polygon":
        xs, ys = zip(*corners(box), strict=True)
        shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
    return {"shape_attributes": shape, "region_attributes": {key: label}}


def via_images(key="type"):
    kinds = iter(("rect", "polygon", "rect"))
    return {
        f"{name}-1": {"filename": name, "size": -1, "regions": [via_region(label, box, next(kinds), key) for label, box in objects], "file_attributes": {}}
        for name, objects in TRUTH.items()
    }  # fmt: skip


def via(root):
    """https://www.robots.ox.ac.uk/~vgg/software/via/"""
    pictures(root)
    write(root / "via_export_json.json", json.dumps(via_images()))


def via_project(root):
    pictures(root)
    options = {"region": {"type": {"type": "dropdown", "options": {"red": "", "blue": ""}}}, "file": {}}
    content = {"_via_settings": {"ui": {}}, "_via_img_metadata": via_images(), "_via_attributes": options}
    write(root / "via_project.json", json.dumps(content))


def via_csv(root):
    pictures(root)
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(
        [
            "filename",
            "file_size",
            "file_attributes",
            "region_count",
            "region_id",
            "region_shape_attributes",
            "region_attributes",
        ]
    )
    for entry in via_images().values():
        regions = entry["regions"]
        for i, region in enumerate(regions):
            rows.writerow([entry["filename"], 1, "{}", len(regions), i, *(json.dumps(region[key]) for key in ("shape_attributes", "region_attributes"))])  # fmt: skip
        if not regions:
            rows.writerow([entry["filename"], 1, "{}", 0, 0, "{}", "{}"])
    write(root / "via_export_csv.csv", out.getvalue())


def via_3(root):
    """Version 3: shapes as numbers, attributes and options by their numbers."""
    pictures(root)
    files = {str(i): {"fid": str(i), "fname": name, "type": 2, "loc": 1, "src": name} for i, name in enumerate(TRUTH, start=1)}
    metadata = {
        f"{fid}_{i}": {"vid": fid, "flg": 0, "z": [], "xy": [2, box[0], box[1], box[2] - box[0], box[3] - box[1]], "av": {"1": str(NAMES.index(label))}}
        for fid, file in files.items()
        for i, (label, box) in enumerate(TRUTH[file["fname"]])
    }  # fmt: skip
    attribute = {"1": {"aname": "colour", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": {"0": "red", "1": "blue"}}}
    project = {"pid": "__VIA_PROJECT_ID__", "data_format_version": "3.1.1", "vid_list": list(files)}
    views = {fid: {"fid_list": [fid]} for fid in files}
    write(
        root / "via_3.json",
        json.dumps(
            {"project": project, "config": {}, "attribute": attribute, "file": files, "metadata": metadata, "view": views}
        ),
    )


def label_studio_region(label, box, kind="rectangle", rotation=0, **more):
    x1, y1, x2, y2 = box
    value = {
        "x": x1 / W * 100,
        "y": y1 / H * 100,
        "width": (x2 - x1) / W * 100,
        "height": (y2 - y1) / H * 100,
        "rotation": rotation,
    }
    if kind == "polygon":
        value = {"points": [[x / W * 100, y / H * 100] for x, y in corners(box)], "closed": True}
    if kind == "ellipse":
        value = {
            "x": (x1 + x2) / W * 50,
            "y": (y1 + y2) / H * 50,
            "radiusX": (x2 - x1) / W * 50,
            "radiusY": (y2 - y1) / H * 50,
            "rotation": 0,
        }
    return {
        "original_width": W, "original_height": H, "image_rotation": 0, "id": f"{label}{x1}", "from_name": "label", "to_name": "image",
        "type": f"{kind}labels", "origin": "manual", "value": value | {f"{kind}labels": [label]}, **more,
    }  # fmt: skip


def label_studio_task(number, image, *annotations, **more):
    return {"id": number, "annotations": list(annotations), "predictions": [], "data": {"image": image}, "project": 1, **more}


def label_studio_annotation(regions, **more):
    return {"id": 7, "completed_by": 1, "result": regions, "was_cancelled": False, "ground_truth": False, **more}


def label_studio(root):
    """https://labelstud.io/guide/task_format"""
    pictures(root / "images", [f"0123abcd-{name}" for name in TRUTH])
    kinds = iter(("rectangle", "polygon", "ellipse"))
    tasks = [
        label_studio_task(i, f"/data/upload/1/0123abcd-{name}", label_studio_annotation([label_studio_region(label, box, next(kinds)) for label, box in objects]))
        for i, (name, objects) in enumerate(TRUTH.items())
    ]  # fmt: skip
    write(root / "project-1-at-2024.json", json.dumps(tasks))


def label_studio_min(root):
    pictures(root)
    rows = [
        {"image": f"/data/local-files/?d=pets/{name}", "id": i, "annotator": 1, "annotation_id": i, "label": [
            region["value"] | {"original_width": W, "original_height": H} for region in (label_studio_region(label, box) for label, box in objects)
        ]}
        for i, (name, objects) in enumerate(TRUTH.items())
    ]  # fmt: skip
    write(root / "project-1-min.json", json.dumps(rows))


def supervisely_object(label, box, kind="rectangle"):
    found = {"id": 1, "classId": 2, "geometryType": kind, "classTitle": label, "tags": []}
    if kind == "bitmap":
        data = base64.b64encode(zlib.compress(png(box, "RGBA"))).decode()
        return found | {"bitmap": {"data": data, "origin": list(box[:2])}}
    points = [list(box[:2]), list(box[2:])] if kind == "rectangle" else [list(point) for point in corners(box)]
    return found | {"points": {"exterior": points, "interior": []}}


def supervisely(root):
    """https://docs.supervisely.com/customization-and-integration/00_ann_format_navi"""
    pictures(root / "ds0/img")
    classes = [{"title": name, "shape": "any", "color": "#FF0000", "id": i} for i, name in enumerate(NAMES)]
    write(root / "meta.json", json.dumps({"classes": classes, "tags": [], "projectType": "images"}))
    kinds = iter(("rectangle", "polygon", "bitmap"))
    for name, objects in TRUTH.items():
        content = {"description": "", "tags": [], "size": {"height": H, "width": W}, "objects": [supervisely_object(label, box, next(kinds)) for label, box in objects]}  # fmt: skip
        write(root / f"ds0/ann/{name}.json", json.dumps(content))


def table(root):
    """`file,x1,y1,x2,y2,label`, with an empty row for an image without objects."""
    pictures(root)
    rows = [[name, *box, label] for name, objects in TRUTH.items() for label, box in objects] + [
        ["neg.jpg", "", "", "", "", ""]
    ]
    write(root / "boxes.csv", "file,x1,y1,x2,y2,label\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))


def table_without_heading(root):
    """Keras-RetinaNet's."""
    table(root)
    write(root / "boxes.csv", (root / "boxes.csv").read_text(encoding="utf-8").partition("\n")[2])


def table_tensorflow(root):
    pictures(root)
    rows = [f"{name},{W},{H},{label},{','.join(map(str, box))}\n" for name, objects in TRUTH.items() for label, box in objects]
    write(root / "train_labels.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n" + "".join(rows), "utf-8-sig")


def create_ml(root):
    pictures(root)
    content = [
        {"image": name, "annotations": [{"label": label, "coordinates": {"x": (b[0] + b[2]) / 2, "y": (b[1] + b[3]) / 2, "width": b[2] - b[0], "height": b[3] - b[1]}} for label, b in objects]}
        for name, objects in TRUTH.items()
    ]  # fmt: skip
    write(root / "_annotations.createml.json", json.dumps(content))


def vott(root):
    pictures(root)
    assets = {
        str(i): {
            "asset": {"format": "jpg", "id": str(i), "name": name, "path": f"file:/home/me/{name}", "size": {"width": W, "height": H}, "state": 2, "type": 1},
            "regions": [{"id": "r", "type": "RECTANGLE", "tags": [label], "boundingBox": {"height": b[3] - b[1], "width": b[2] - b[0], "left": b[0], "top": b[1]}, "points": []} for label, b in objects],
            "version": "2.2.0",
        }
        for i, (name, objects) in enumerate(TRUTH.items())
    }  # fmt: skip
    write(
        root / "p-export.json",
        json.dumps({"name": "p", "version": "2.2.0", "tags": [{"name": name} for name in NAMES], "assets": assets}),
    )


def dota(root):
    """https://captain-whu.github.io/DOTA/dataset.html"""
    pictures(root / "train/images", suffix=".png")
    for name, objects in TRUTH.items():
        lines = [" ".join(f"{x:.1f} {y:.1f}" for x, y in corners(box)) + f" {label} 0\n" for label, box in objects]
        write(root / f"train/labelTxt/{name.removesuffix('.jpg')}.txt", "imagesource:GoogleEarth\ngsd:0.14\n" + "".join(lines))


def kitti(root):
    """https://www.cvlibs.net/datasets/kitti/eval_object.php"""
    pictures(root / "training/image_2", suffix=".png")
    for name, objects in TRUTH.items():
        lines = [
            f"{label} 0.00 0 1.55 {' '.join(f'{v:.2f}' for v in box)} 1.57 1.73 4.15 1.00 1.75 13.22 1.62\n"
            for label, box in objects
        ]
        write(root / f"training/label_2/{name.removesuffix('.jpg')}.txt", "".join(lines))


def open_images(root):
    """https://storage.googleapis.com/openimages/web/download_v7.html"""
    pictures(root / "images/train")
    mids = {"red": "/m/06fvc", "blue": "/m/01g5v"}
    boxes = [
        f"{name.removesuffix('.jpg')},xclick,{mids[label]},1,{b[0] / W},{b[2] / W},{b[1] / H},{b[3] / H},0,0,0,0,0\n"
        for name, objects in TRUTH.items() for label, b in objects
    ]  # fmt: skip
    heading = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
    write(root / "annotations/train-annotations-bbox.csv", heading + "".join(boxes))
    write(root / "annotations/class-descriptions-boxable.csv", "/m/06fvc,red\n/m/01g5v,blue\n")
    write(root / "annotations/bbox_labels_600_hierarchy.json", json.dumps({"LabelName": "/m/0bl9f", "Subcategory": []}))
    verified = "".join(
        f"{name},verification,{mid},0\n"
        for name in ("neg", "Größe 图 1")
        for mid in mids.values()
        if (name, mid) != ("Größe 图 1", mids["red"])
    )
    write(root / "annotations/train-annotations-human-imagelabels.csv", "ImageID,Source,LabelName,Confidence\n" + verified)


EMPTY_IS_SAID = ("yolo", "yolo_obb", "yolo_roboflow", "yolo_darknet", "yolo_labelimg", "labelme", "label_studio", "label_studio_min", "table", "table_without_heading", "vott", "dota", "kitti", "open_images")  # fmt: skip
"""Writers whose format says that `neg.jpg` was looked at and has nothing. In the others an image without objects is only listed."""
WRITERS = {
    "yolo": (yolo, yolo_obb, yolo_roboflow, yolo_darknet, yolo_labelimg),
    "cvat": (cvat,),
    "labelme": (labelme,),
    "via": (via, via_project, via_csv, via_3),
    "label_studio": (label_studio, label_studio_min),
    "supervisely": (supervisely,),
    "csv": (table, table_without_heading, table_tensorflow),
    "create_ml": (create_ml,),
    "vott": (vott,),
    "dota": (dota,),
    "kitti": (kitti,),
    "open_images": (open_images,),
}
"""Format → the functions that write it below a folder."""
