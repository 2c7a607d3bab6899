"""What the rows of a large file of lines show (images, video, `meta.group`), read in blocks without making a sample of each."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from typing import Any

from vlrl.data.identity import OneImage, Shown
from vlrl.data.sample_json import ADDRESSED, file_of, in_file

_BLOCK = 8 << 20


def shown_in_lines(file: int, root: str) -> Iterator[Shown | OneImage]:
    """What the rows show, in order. `file`: the descriptor of an open file of samples that were read once and are sound; its
    position stays. Relative paths start at `root`."""
    at, rest = 0, b""
    while block := os.pread(file, _BLOCK, at):
        at += len(block)
        whole, line, rest = (rest + block).rpartition(b"\n")
        if line:
            yield from _shown(whole + line, root)
    if rest.strip():
        yield from _shown(rest + b"\n", root)


def _shown(block: bytes, root: str) -> Iterator[Shown | OneImage]:
    columns = _columns(block)
    if columns is None:
        rows = [json.loads(line) for line in block.split(b"\n") if line.strip()]
        groups: list[Any] = [(row.get("meta") or {}).get("group") for row in rows]
        columns = [[row.get("images") for row in rows], [row.get("video") for row in rows], groups]
    elif isinstance(columns, OneImage):
        text = "\0".join(columns.paths)
        if any(mark in text for mark in ADDRESSED):
            yield OneImage([placed(path, root) for path in columns.paths], columns.places)
        else:  # as `placed`, in less time
            prefix = root + "/"
            yield OneImage([path if path[0] == "/" else prefix + path for path in columns.paths], columns.places)
        return
    for images, video, group in zip(*columns, strict=True):
        shown = [placed(path, root) for path in images] if images else ()
        yield Shown(shown, None if video is None else placed(video, root), group)


def _columns(block: bytes) -> list[list[Any]] | OneImage | None:
    """Images, video and `meta.group` of the rows of a block; None where groups are no texts, which JSON in Arrow needs."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    fields = [("images", pa.list_(pa.string())), ("video", pa.string()), ("meta", pa.struct([("group", pa.string())]))]
    fields = [(name, kind) for name, kind in fields if name == "images" or _WORDS[name] in block]
    options = arrow_json.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore")
    reading = arrow_json.ReadOptions(use_threads=False, block_size=max(len(block), 1))
    try:
        table = arrow_json.read_json(io.BytesIO(block), read_options=reading, parse_options=options)
        if len(fields) == 1 and (one := _one_image(table["images"].combine_chunks())) is not None:
            return one
        none = [None] * table.num_rows
        found = {name: table[name] for name, _ in fields}
        if "meta" in found:
            found["meta"] = pa.compute.struct_field(found["meta"], "group")
        return [found[name].to_pylist() if name in found else none for name in ("images", "video", "meta")]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
        return None


def _one_image(images: Any) -> OneImage | None:
    """A column of lists in which each row has one image, as in most sets; None for any other."""
    names = images.flatten()
    if images.null_count or names.null_count or len(names) != len(images) or images.value_lengths().unique().to_pylist() != [1]:
        return None
    encoded = names.dictionary_encode()
    return OneImage(encoded.dictionary.to_pylist(), encoded.indices.to_numpy())


_WORDS = {"video": b'"video"', "meta": b'"group"'}


def placed(path: str, root: str) -> str:
    """An image's path or address below `root`; an absolute path stays."""
    if path.startswith(ADDRESSED):
        file = file_of(path)
        return path if file is None else in_file(path, os.path.join(root, file))
    return path if path.startswith("/") else f"{root}/{path}"
