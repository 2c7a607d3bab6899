"""Whether a PNG file may say after its pixels how it is rotated: its chunks are passed over, its pixels are not decoded.

Pillow decodes a whole PNG to look for EXIF behind its pixels, a hundred times as long as reading its header.
"""

from __future__ import annotations

import os
from typing import BinaryIO

SIGNATURE_BYTES = 8
TEXTS = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})


def says_more_after_pixels(file: BinaryIO) -> bool:
    """Whether texts or EXIF follow the pixels. The position in the file stays. Raises OSError for a file that is cut off."""
    place = file.tell()
    try:
        size = file.seek(0, os.SEEK_END)
        at, seen = SIGNATURE_BYTES, False
        while at + 12 <= size:
            file.seek(at)
            head = file.read(8)
            n_bytes, kind = int.from_bytes(head[:4], "big"), head[4:]
            at += 12 + n_bytes
            if at > size:
                break
            if kind == b"IEND":
                return False
            if seen and kind in TEXTS:
                return True
            seen = seen or kind == b"IDAT"
        raise OSError(f"image file is truncated ({size:,} bytes)")
    finally:
        file.seek(place)
