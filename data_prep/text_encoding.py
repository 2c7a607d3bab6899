"""The encoding of annotation files: UTF-8 or what a byte order mark says, else what the user or the XML declaration names.

A file that is UTF-8 is read as UTF-8 whatever else is named for it: text in another encoding is hardly ever valid UTF-8 by
chance, but for some characters of GBK and its like. A file that is in no known encoding is refused with how its first odd text
reads in usual ones; nothing is guessed.
"""

from __future__ import annotations

import argparse
import codecs
import re
from pathlib import Path

UTF8 = "utf-8-sig"
CANDIDATES = ("cp1252", "gbk", "big5", "shift_jis", "euc_kr", "cp1251", "cp1250")
_BOMS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEVERAL_BYTES = re.compile(r"gb|big5|euc|cp9|shift|sjis|johab|hz|iso2022|utf|ms9")
_MEANT = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso-8859-1": "cp1252",
    "latin-1": "cp1252",
    "us-ascii": "utf-8",
    "ascii": "utf-8",
}
"""What tools write under these names, as web browsers read them. A declaration that can be read as ASCII is not UTF-16."""
_MEANT |= dict.fromkeys(("utf-16", "utf-16le", "utf-16be", "utf-16-le", "utf-16-be", "unicode"), "utf-8")
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_DECLARATION = re.compile(r"^\s*<\?xml.*?\?>", re.DOTALL)
_ACCENTED = re.compile("[A-Za-z][\u00c0-\u024f]|[\u00c0-\u024f][A-Za-z]")
_PIECE = 1 << 20


class WrongEncoding(ValueError):
    """In which encoding a file is not, and what it may be."""


def add_encoding_option(parser: argparse.ArgumentParser, files: str = "files") -> None:
    """Add `--encoding`; `files`: of which files."""
    parser.add_argument("--encoding", help=f"encoding of {files} that are not UTF-8, such as gbk or cp1252")


def check_encoding_option(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends the program where there is no such encoding of text."""
    if getattr(args, "encoding", None) is not None:
        try:
            "".encode(args.encoding)
        except LookupError:
            parser.error(f"--encoding: Python knows no encoding {args.encoding!r}")


def marked(start: bytes) -> str | None:
    """The encoding that the first bytes of a file (four are enough) show, by a byte order mark or by zeros between letters."""
    found = next((name for mark, name in _BOMS if start.startswith(mark)), None)
    if found is None and len(start) >= 4 and start[:4].count(0) == 2 and start[0] != start[1]:
        found = "utf-16-le" if start[1] == start[3] == 0 else "utf-16-be" if start[0] == start[2] == 0 else None
    return found


def as_bytes(text: str, start: bytes) -> bytes:
    """ASCII text as it stands in a file with this beginning."""
    name = marked(start) or UTF8
    if name == UTF8:
        return text.encode("ascii")
    if name in ("utf-16", "utf-32"):
        name += "-le" if start[:1] == codecs.BOM_UTF16_LE[:1] else "-be"
    return text.encode(name)


def decoded(data: bytes, asked: str | None = None) -> str:
    """The text of a file. `asked`: the encoding that is named for it, None: UTF-8. Raises WrongEncoding."""
    asked = asked and _MEANT.get(asked.casefold().replace("_", "-"), asked)
    name = marked(data) or (asked if asked and not _is_utf8(data, asked) else UTF8)
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        raise WrongEncoding(problem(error, name)) from None


def of_file(path: Path, asked: str | None) -> str:
    """The encoding in which to open a file that may be large; it is gone through where one is asked for."""
    with path.open("rb") as file:
        start = file.read(4)
        name, asked = marked(start), asked and _MEANT.get(asked.casefold().replace("_", "-"), asked)
        if name or asked is None or codecs.lookup(asked).name in ("utf-8", "utf-8-sig"):
            return name or UTF8
        file.seek(0)
        strict, is_narrow, has_more = codecs.getincrementaldecoder("utf-8")(), False, False
        try:
            while piece := file.read(_PIECE):
                strict.decode(piece)
                is_narrow, has_more = is_narrow or not piece.isascii(), has_more or max(piece) >= 0xE0
            strict.decode(b"", True)
        except UnicodeDecodeError:
            return asked
    return UTF8 if is_narrow and (has_more or not _has_several_bytes(asked)) else asked


def _is_utf8(data: bytes, asked: str) -> bool:
    """Whether data for which `asked` is named are UTF-8 all the same. What has characters of two bytes only may be both;
    accented letters stand beside plain ones."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    if data.isascii() or max(data) >= 0xE0 or not _has_several_bytes(asked) or _ACCENTED.search(text):
        return True
    try:
        data.decode("gb2312" if codecs.lookup(asked).name in ("gbk", "gb18030") else asked)
    except UnicodeDecodeError:
        return True
    return False


def _has_several_bytes(name: str) -> bool:
    return bool(_SEVERAL_BYTES.match(codecs.lookup(name).name.replace("_", "")))


def problem(error: UnicodeDecodeError, name: str) -> str:
    """Why a text is not in the encoding `name`, with what its first odd characters are in others."""
    start = max(error.start - 12, 0)
    part = error.object[start : error.start + 12]
    odd = b" ".join(part.split())
    readings: dict[str, str] = {}
    for candidate in CANDIDATES:
        try:
            text = odd.decode(candidate)
        except UnicodeDecodeError as cut:
            if cut.end < len(odd) or cut.start < len(odd) - 2:
                continue
            text = odd[: cut.start].decode(candidate)
        if text.isprintable() and text not in readings.values():
            readings[candidate] = text
    shown = "; ".join(f"{candidate}: {text!r}" for candidate, text in list(readings.items())[:4])
    shown_name = "utf-8" if name == UTF8 else name
    where = f"{error.reason} at byte {error.start}"
    return f"not {shown_name} text ({where}); name its encoding with --encoding, which may be {shown or f'any, of {part!r}'}"


def xml_text(data: bytes, asked: str | None = None) -> str:
    """The text of an XML file without its declaration. The encoding is that of its byte order mark, or the one that it
    declares (none: UTF-8) unless it is UTF-8 all the same; where it is in neither, `asked`. Raises WrongEncoding."""
    found = _DECLARED.match(data)
    declared = found.group(1).decode("ascii") if found else "utf-8"
    meant = _MEANT.get(declared.casefold().replace("_", "-"), declared)
    says = f"declares {declared}" if found else "declares no encoding"
    try:
        is_utf8 = codecs.lookup(meant).name == "utf-8"
    except LookupError:
        if asked is None:
            raise WrongEncoding(f"it {says}, which is not known; name its encoding with --encoding (cp1252, ...)") from None
        is_utf8 = True
    # one that any bytes are text in (cp1252) says nothing against the one that the user names
    first = asked if asked and (is_utf8 or not _has_several_bytes(meant)) else None if is_utf8 else meant
    try:
        text = decoded(data, first)
    except WrongEncoding as wrong:
        if asked is None or first == asked:
            raise WrongEncoding(f"it {says} and is {wrong}") from None
        text = decoded(data, asked)
    return _DECLARATION.sub("", text.removeprefix("\ufeff"), count=1)


def read_text(path: Path, asked: str | None = None) -> str:
    """The text of a file; ends the program where it has another encoding."""
    try:
        return decoded(path.read_bytes(), asked)
    except WrongEncoding as wrong:
        raise SystemExit(f"{path}: {wrong}") from None
