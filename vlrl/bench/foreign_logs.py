"""Answers logged by lmms-eval and VLMEvalKit, as both write them: one record a row, whatever the file.

lmms-eval: `*_samples_<task>.jsonl` of `--log_samples`, a row with `doc_id`, `target`, `input`, `filtered_resps` and, where a
filter changed the answer, `resps`; before version 0.3 one JSON object with `logs`. VLMEvalKit: `<model>_<dataset>.xlsx`, .tsv
or .json, a row with `index`, `question`, `answer`, the options `A`, `B`, ... and `prediction`. Not here: which sample a row
answers (`vlrl.bench.foreign_answers`).
"""

from __future__ import annotations

import ast
import contextlib
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlrl.data.files import read_json_lines, read_utf8
from vlrl.schema import SampleError

LMMS_EVAL, VLMEVALKIT = "lmms-eval", "VLMEvalKit"
TABLES = (".xlsx", ".tsv", ".csv")
MAX_CELL = 32_767
"""Characters of a cell of a sheet: longer texts are cut when one is written."""
FAILED = "Failed to obtain answer"
"""How VLMEvalKit marks a request that got no answer."""
_ID_KEYS = ("id", "question_id", "questionId", "ann_id", "sample_id", "qid", "pid", "image_id")
OWN_KEY = "vlrl_id"
"""The key under which tasks exported by `vlrl bench export` log the id of a sample."""
_OPTION = re.compile(r"^\s*\(?([A-Z])[.):]\s+(.+?)\s*$")


@dataclass(frozen=True)
class LoggedRow:
    """A row of another project's log. `ids`: what may name its sample, the surest first. `target`: the reference answer, None
    where the row has none. `completion`: None where the request failed. `truncated`: the file cut it."""

    where: str
    ids: Mapping[str, str]
    question: str
    target: str | list[str] | None
    completion: str | None
    choices: tuple[str, ...] | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    truncated: bool = False
    n_tokens: int | None = None


@dataclass(frozen=True)
class ForeignLog:
    """The rows of a log. `project`: who wrote it; `notes`: what a person should know of how it was read."""

    project: str
    rows: Sequence[LoggedRow]
    notes: tuple[str, ...] = ()


def read_foreign_log(path: Path) -> ForeignLog | None:
    """The log in a file, or None for one of our own. Raises SampleError for a file that cannot be read, or that holds no text
    that a model wrote."""
    if path.suffix.lower() in TABLES:
        return _vlmevalkit(path, enumerate(_table(path), start=2))
    rows = _json_rows(path)
    if rows is None:
        return None
    first = rows[0][1] if rows else {}
    if "doc_id" in first and ("filtered_resps" in first or "resps" in first):
        return _lmms_eval(path, rows)
    if "index" in first and "prediction" in first:
        return _vlmevalkit(path, rows)
    return None


def _json_rows(path: Path) -> list[tuple[Any, dict[str, Any]]] | None:
    """(place, row) of a JSONL file, a JSON array, or the `logs` of a JSON object; None for what may be a log of our own."""
    if path.suffix.lower() == ".jsonl":
        try:
            first = next(read_json_lines(path), None)
        except SampleError:
            return None  # ours may end in half a line; its own reader says what is wrong
        if first is None or not ("doc_id" in first[1] or "prediction" in first[1]):
            return None
        return list(read_json_lines(path))
    try:
        value = json.loads(read_utf8(path))
    except (ValueError, RecursionError):
        return None
    value = value.get("logs") if isinstance(value, dict) else value
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        return None
    return [(f"{path}: row {i}", row) for i, row in enumerate(value)]


# ---- lmms-eval


def _lmms_eval(path: Path, rows: Sequence[tuple[Any, dict[str, Any]]]) -> ForeignLog:
    found: list[LoggedRow] = []
    seen: dict[str, str] = {}
    n_several = 0
    for place, row in rows:
        where, doc_id = str(place), str(row.get("doc_id"))
        if doc_id in seen:
            raise SampleError(f"{where}: doc_id {doc_id} was used at {seen[doc_id]}; a log has one row a sample, of one filter")
        seen[doc_id] = where
        texts = _texts(row.get("resps", row.get("filtered_resps")))
        if not texts:
            raise SampleError(
                f"{where}: no text that a model wrote, got {str(row.get('resps', row.get('filtered_resps')))[:80]}; answers of"
                " output_type generate_until can be scored, log-likelihoods cannot"
            )
        n_several += len(texts) > 1
        stated = row.get("doc")
        doc: dict[str, Any] = stated if isinstance(stated, dict) else {}
        question = _text(row.get("input")) or _text(doc.get("question"))
        found.append(
            LoggedRow(
                where,
                ids=_ids(row, doc),
                question=question,
                target=_target(row.get("target")),
                completion=texts[0],
                choices=_listed_choices(question),
                n_tokens=_output_tokens(row.get("token_counts")),
            )
        )
    notes = (f"{n_several:,} rows hold several answers; the first of each is scored",) if n_several else ()
    return ForeignLog(LMMS_EVAL, found, notes)


def _texts(value: Any) -> list[str]:
    """The answers in `resps` and `filtered_resps`, lists of lists of texts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return []
    return [text for one in value for text in _texts(one)]


def _output_tokens(counts: Any) -> int | None:
    """The tokens of the first answer, where the model counted them."""
    first = counts[0] if isinstance(counts, list) and counts else None
    n = first.get("output_tokens") if isinstance(first, dict) else None
    return n if isinstance(n, int) and not isinstance(n, bool) else None


def _ids(row: Mapping[str, Any], doc: Mapping[str, Any]) -> dict[str, str]:
    """What may name the sample: our own id, ids of the document, ids that a metric logged, and last the row's number."""
    inner = [value for value in row.values() if isinstance(value, dict)]
    found: dict[str, str] = {}
    for one in (row, *inner):
        if isinstance(one.get(OWN_KEY), str):
            found[OWN_KEY] = one[OWN_KEY]
    for one in (doc, *inner):
        for key in _ID_KEYS:
            if isinstance(one.get(key), str | int):
                found.setdefault(key, str(one[key]))
    return found | {"doc_id": str(row.get("doc_id"))}


def _target(value: Any) -> str | list[str] | None:
    """A reference answer; of a list, also of one that was written as text, the texts in it."""
    if isinstance(value, str) and value[:1] == "[" and value[-1:] == "]":
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = ast.literal_eval(value)
    if isinstance(value, list):
        return [_text(one) for one in value if _text(one)] or None
    return _text(value) or None


def _text(value: Any) -> str:
    """A cell or field as text; empty for one that holds nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value == int(value):
        value = int(value)
    text = str(value).strip()
    return "" if text.lower() in ("nan", "none") and not isinstance(value, str) else text


def _listed_choices(question: str) -> tuple[str, ...] | None:
    """The options that a question lists on lines of their own, as "A. red"; None unless they run from A without a gap."""
    found = [match.groups() for line in question.splitlines() if (match := _OPTION.match(line))]
    letters = [letter for letter, _ in found]
    if len(found) < 2 or letters != [chr(ord("A") + i) for i in range(len(found))]:
        return None
    return tuple(text for _, text in found)


# ---- VLMEvalKit


def _vlmevalkit(path: Path, rows: Iterable[tuple[Any, dict[str, Any]]]) -> ForeignLog:
    found: list[LoggedRow] = []
    seen: dict[str, str] = {}
    for place, row in rows:
        where = f"{path}:{place}" if isinstance(place, int) else str(place)
        if "index" not in row or "prediction" not in row:
            raise SampleError(f"{where}: not a row of {VLMEVALKIT}: it has no 'index' and 'prediction', only {list(row)[:8]}")
        index = _text(row["index"])
        if index in seen:
            raise SampleError(f"{where}: index {index} was used at {seen[index]}")
        seen[index] = where
        found.append(_vlmevalkit_row(where, index, row, path.suffix.lower() == ".xlsx"))
    notes = []
    if path.suffix.lower() == ".xlsx":  # what a sheet loses
        n_empty, n_cut = sum(one.completion == "" for one in found), sum(one.truncated for one in found)
        if n_empty:
            why = f"{VLMEVALKIT} also leaves a cell empty whose long text begins with an address; PRED_FORMAT=tsv keeps it"
            notes.append(f"{n_empty:,} predictions are empty cells and count as unread: {why}")
        notes += [f"{n_cut:,} predictions were cut at {MAX_CELL:,} characters when the sheet was written"] if n_cut else []
    return ForeignLog(VLMEVALKIT, found, tuple(notes))


def _vlmevalkit_row(where: str, index: str, row: Mapping[str, Any], is_sheet: bool) -> LoggedRow:
    completion = row["prediction"]
    text = completion if isinstance(completion, str) else _text(completion)
    is_cut = is_sheet and len(text) >= MAX_CELL
    failed = FAILED in text
    thought = row.get("thinking")  # written beside the answer under SPLIT_THINK
    if isinstance(thought, str) and thought:
        text = f"<think>{thought}</think>{text}"
    return LoggedRow(
        where,
        ids={key: _text(row[key]) for key in _ID_KEYS if _text(row.get(key))} | {"index": index},
        question=_text(row.get("question")),
        target=_target(row.get("answer")),
        completion=None if failed else text,
        choices=_options(row),
        groups={key: _text(row[key]) for key in ("category", "l2-category", "split") if _text(row.get(key))},
        truncated=is_cut,
    )


def _options(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The columns A, B, ... up to the first that is empty; None for fewer than two."""
    found = []
    for i in range(26):
        text = _text(row.get(chr(ord("A") + i)))
        if not text:
            break
        found.append(text)
    return tuple(found) if len(found) > 1 else None


def _table(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table by its first line. Raises SampleError."""
    if path.suffix.lower() == ".xlsx":
        yield from _sheet(path)
        return
    csv.field_size_limit(2**31 - 1)  # images in base64 may be left in
    text = read_utf8(path).removeprefix("\ufeff")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="," if path.suffix.lower() == ".csv" else "\t")
    try:
        for row in reader:
            yield {str(key): value for key, value in row.items()}
    except csv.Error as error:
        raise SampleError(f"{path}:{reader.line_num}: not a line of the table: {error}") from error


def _sheet(path: Path) -> Iterator[dict[str, Any]]:
    if find_spec("openpyxl") is None:
        raise SampleError(
            f"{path}: needs openpyxl, which is not installed: pip install 'vlrl[logs]'; or let {VLMEVALKIT} write .tsv"
            " (PRED_FORMAT=tsv)"
        )
    from zipfile import BadZipFile

    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise SampleError(f"{path}: cannot be read as a sheet: {error}") from error
    rows = book.worksheets[0].iter_rows(values_only=True)
    heads = [str(head) for head in next(rows, ())]
    for row in rows:
        if any(cell is not None for cell in row):
            yield dict(zip(heads, row, strict=False))
