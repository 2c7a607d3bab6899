"""What the rows of a large file of lines show (images, video, `meta.group`), read in blocks without making a sample of each."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from typing import Any

from vlrl.data.identity import Shown
from vlrl.data.sample_json import ADDRESSED, file_of, in_file

_BLOCK = 8 << 20


def shown_in_lines(file: int, root: str) -> Iterator[Shown]:
    """What each row shows, in order. `file`: the descriptor of an open file of samples that were read once and are sound; its
    position stays. Relative paths start at `root`."""
    at, rest = 0, b""
    while block := os.pread(file, _BLOCK, at):
        at += len(block)
        whole, line, rest = (rest + block).rpartition(b"\n")
        if line:
            yield from _shown(whole + line, root)
    if rest.strip():
        yield from _shown(rest + b"\n", root)


def _shown(block: bytes, root: str) -> Iterator[Shown]:
    columns = _columns(block)
    if columns is None:
        rows = [json.loads(line) for line in block.split(b"\n") if line.strip()]
        groups: list[Any] = [(row.get("meta") or {}).get("group") for row in rows]
        columns = [[row.get("images") for row in rows], [row.get("video") for row in rows], groups]
    for images, video, group in zip(*columns, strict=True):
        shown = [_placed(path, root) for path in images] if images else ()
        yield Shown(shown, None if video is None else _placed(video, root), group)


def _columns(block: bytes) -> list[list[Any]] | None:
    """Images, video and `meta.group` of the rows of a block; None where groups are no texts, which JSON in Arrow needs."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    fields = [("images", pa.list_(pa.string())), ("video", pa.string()), ("meta", pa.struct([("group", pa.string())]))]
    fields = [(name, kind) for name, kind in fields if name == "images" or _WORDS[name] in block]
    options = arrow_json.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore")
    reading = arrow_json.ReadOptions(use_threads=False, block_size=max(len(block), 1))
    try:
        table = arrow_json.read_json(io.BytesIO(block), read_options=reading, parse_options=options)
        none = [None] * table.num_rows
        found = {name: table[name] for name, _ in fields}
        if "meta" in found:
            found["meta"] = pa.compute.struct_field(found["meta"], "group")
        others = [found[name].to_pylist() if name in found else none for name in ("video", "meta")]
        return [_lists(found["images"].combine_chunks()), *others]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
        return None


def _lists(images: Any) -> list[Any]:
    """A column of lists as Python's; quick where each row has one image, as in most sets."""
    if images.null_count == 0 and len(images.flatten()) == len(images) and images.value_lengths().unique().to_pylist() == [1]:
        return [(one,) for one in images.flatten().to_pylist()]
    return list(images.to_pylist())


_WORDS = {"video": b'"video"', "meta": b'"group"'}


def _placed(path: str, root: str) -> str:
    """An absolute path is joined as it is."""
    if path.startswith(ADDRESSED):
        file = file_of(path)
        return path if file is None else in_file(path, os.path.join(root, file))
    return path if path.startswith("/") else f"{root}/{path}"
