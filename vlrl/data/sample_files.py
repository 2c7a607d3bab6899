"""Files of samples: read and checked line by line. Their images are found, not opened (`vlrl.data.images.open_image`)."""

from __future__ import annotations

import json
from pathlib import Path

from vlrl.answers.whole_text import is_whole
from vlrl.data.packed_images import packed_problem
from vlrl.data.sample_json import file_of, sample_from_json
from vlrl.schema import Sample, SampleError


def read_samples(
    path: str | Path, image_root: str | Path | None = None, limit: int | None = None, *, need_images: bool = True
) -> list[Sample]:
    """Read and check a JSONL file of samples (UTF-8, one object a line, empty lines skipped).

    Images are checked to exist (unless `need_images` is False: scoring needs none), not opened. Raises SampleError naming
    file and line for anything malformed: wrong JSON, unknown or missing keys, a duplicate id (both lines), a missing image,
    an empty file.
    """
    path = Path(path)
    if not path.is_file():
        raise SampleError(f"{path}: no such file; give a JSONL file of samples (data_prep/ has converters)")
    root = Path(image_root) if image_root is not None else path.parent
    samples: list[Sample] = []
    line_of: dict[str, int] = {}
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            where = f"{path}:{number}"
            try:
                text = raw.decode("utf-8").strip()
                row = json.loads(text) if text else None
            except (ValueError, RecursionError) as error:
                hint = " (data_prep/ converts VOC and COCO files)" if number == 1 else ""
                raise SampleError(f"{where}: not a line of UTF-8 JSON: {error}{hint}") from error
            if row is None and not text:
                continue
            if not is_whole(row):
                raise SampleError(
                    f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), which no tokenizer, file or page can"
                    " hold; write the whole character, or leave it out"
                )
            sample = sample_from_json(row, where, root)
            if sample.id in line_of:
                raise SampleError(f"{where}: id {sample.id!r} was used on line {line_of[sample.id]}; ids must be unique")
            line_of[sample.id] = number
            for image in (*sample.images, *([sample.video] if sample.video else [])):
                if need_images and (problem := missing(image, is_video=image == sample.video)):
                    raise SampleError(
                        f"{where} (id {sample.id!r}): {problem}; paths are relative to {root} (--image_root changes that)"
                    )
            samples.append(sample)
            if limit is not None and len(samples) >= limit:
                break
    if not samples:
        raise SampleError(f"{path}: holds no samples")
    return samples


def missing(path: str, *, is_video: bool = False) -> str | None:
    """Why there is no image at a path or an address (`is_video`: no video or folder of frames), or None. What is drawn when
    opened is always there."""
    if path.startswith("synthetic:"):
        return None
    file = file_of(path)
    if path != file and file is not None and Path(file).is_file():
        return packed_problem(path)
    is_found = Path(path).is_file() or (is_video and Path(path).is_dir())
    return None if is_found else f"no such file {file or path}"


def missing_in(sample: Sample) -> str | None:
    """Why the first image or video of a sample that is not there is missing, or None."""
    found = (
        missing(path, is_video=path == sample.video) for path in (*sample.images, *([sample.video] if sample.video else []))
    )
    return next(filter(None, found), None)


def is_there(path: str) -> bool:
    """Whether an image, a video or a folder of frames exists; what is drawn when opened always does."""
    return missing(path, is_video=True) is None
