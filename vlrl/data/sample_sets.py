"""The samples behind `--data`: our own files, those of other projects, several with a comma; subsets; large sets by row.

Sets of up to `LARGE` rows are in memory. Of a larger one the places of its rows are kept, and a sample is made when it is used.
Not here: the forms of other projects' rows (`vlrl.data.foreign_rows`), what a task says of an answer.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, overload

import numpy as np

from vlrl.data.files import sha256_of
from vlrl.data.foreign_rows import RowReading, foreign_samples, form_of
from vlrl.data.identity import OneImage, Shown, shown_of
from vlrl.data.line_index import count_lines, index_lines
from vlrl.data.row_counts import Found, too_many_bad
from vlrl.data.row_images import InsideRow
from vlrl.data.row_source import UnitError
from vlrl.data.row_views import Joined, Lines, Named, Picked
from vlrl.data.sample_files import read_samples
from vlrl.data.sample_json import sample_from_json, sample_to_json
from vlrl.data.subsets import drawn_places, stratum_of
from vlrl.data.synthetic.items import item_rng
from vlrl.data.tables import IMAGE_COLUMNS, TABLE_FILES, Table, numbered_images, open_table
from vlrl.data.text_tables import start_of
from vlrl.schema import Sample, SampleError

LARGE = 20_000
"""Rows of a set that is kept in memory; larger ones are read by row."""
N_CANDIDATES = 5_000
"""Rows of a large set among which a small subset is drawn: each of them is read."""
BUILT_IN = ("detection", "grounding", "classification", "planning", "qa")
_NATIVE_KEYS = {"id", "task", "images", "video", "question", "answer", "choices", "meta"}
_Array = np.ndarray[Any, Any]


class SampleSet(Sequence[Sample]):
    """Samples of files, in their order. `notes`: what a person should know of how they were read; `n_bad`: rows that could not
    be. Of a large set each sample is read when it is used; `prompts` has hashes of what all rows show and ask, for this process
    alone."""

    def __init__(
        self, rows: Sequence[Sample], notes: Sequence[str] = (), n_bad: int = 0, prompts: _Array | None = None
    ) -> None:
        self._rows, self.notes, self.n_bad, self.prompts = rows, tuple(notes), n_bad, prompts

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> SampleSet: ...

    def __getitem__(self, index: int | slice) -> Sample | SampleSet:
        return self.part(range(len(self))[index]) if isinstance(index, slice) else self._rows[index]

    def __iter__(self) -> Iterator[Sample]:
        return (self._rows[i] for i in range(len(self)))

    @property
    def is_large(self) -> bool:
        return self.prompts is not None

    def shown(self) -> Iterable[Shown | OneImage]:
        """What each row shows (`vlrl.data.identity`)."""
        return shown_of(self._rows)

    def image_at(self, i: int, place: int) -> str:
        """An image of a row."""
        own: Callable[[int, int], str] | None = getattr(self._rows, "image_at", None)
        return self._rows[i].images[place] if own is None else own(i, place)

    def part(self, places: Sequence[int] | _Array) -> SampleSet:
        """The samples at these places, in their order. A part that is not large is read at once."""
        if self.prompts is None or len(places) <= LARGE:
            return SampleSet([self._rows[int(i)] for i in places], self.notes, self.n_bad)
        at = np.asarray(places, dtype=np.int64)
        return SampleSet(Picked(self._rows, at), self.notes, self.n_bad, self.prompts[at])

    def drawn(self, limit: int | None, seed: int) -> SampleSet:
        """`limit` of the samples (None: all), drawn by seed with answers in their shares; of a large set the shares are those
        among some drawn rows."""
        if limit is None or limit >= len(self):
            return self
        if self.prompts is None:
            return self.part(drawn_places([stratum_of(sample) for sample in self], limit, seed))
        if limit > LARGE:
            return self.part(np.sort(item_rng("rows", seed).permutation(len(self))[:limit]))
        n = LARGE if 2 * limit > N_CANDIDATES else N_CANDIDATES
        some = np.sort(item_rng("rows to draw from", seed).permutation(len(self))[:n])
        return self.part(some[drawn_places([stratum_of(self[int(i)]) for i in some], limit, seed)])


# ---- reading


def data_paths(words: str | Path) -> list[Path]:
    """The files and folders that `--data` names, with commas between them. Raises SampleError for one that does not exist, or
    is named twice."""
    whole = Path(words)
    paths = [whole] if whole.exists() else [Path(word.strip()) for word in str(words).split(",") if word.strip()]
    for path in paths or [whole]:
        if not path.exists():
            raise SampleError(f"{path}: no such file; give a JSONL file of samples (data_prep/ has converters)")
        if [other.resolve() for other in paths].count(path.resolve()) > 1:
            raise SampleError(f"{words}: {path} is named twice")
    return paths


def digest_of(words: str | Path) -> str:
    """SHA-256 of the bytes behind `--data`: of one file, or of the digests of several. Raises OSError, SampleError."""
    paths = data_paths(words)
    if len(paths) == 1 and paths[0].is_file():
        return sha256_of(paths[0])
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    digests = "\n".join(sha256_of(file) for file in files if file.is_file())
    return hashlib.sha256(digests.encode()).hexdigest()


def read_set(
    words: str | Path,
    image_root: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    *,
    need_images: bool = True,
    tasks: Sequence[str] = (),
) -> SampleSet:
    """The samples behind `--data`, or `limit` of them, drawn by seed. `tasks`: those of the run, which rows of other projects
    may be read as. Raises SampleError."""
    root = Path(image_root) if image_root is not None else None
    parts = [_read_path(path, root, need_images, tasks) for path in data_paths(words)]
    return (parts[0] if len(parts) == 1 else _joined(parts, data_paths(words))).drawn(limit, seed)


def _read_path(path: Path, root: Path | None, need_images: bool, tasks: Sequence[str]) -> SampleSet:
    if not _is_native(path):
        return _read_foreign(path, root, tasks)
    if count_lines(path, LARGE + 1) <= LARGE:
        return SampleSet(read_samples(path, root, need_images=need_images))
    found = index_lines(path)
    folder = root if root is not None else path.parent
    rows = Lines(path.open("rb"), found.starts, folder, str(path))
    return SampleSet(rows, prompts=found.prompts)


def _joined(parts: Sequence[SampleSet], paths: Sequence[Path]) -> SampleSet:
    """Several sets as one; ids that two of them use are told apart by the names of their files."""
    notes = [f"{path.name}: {note}" for part, path in zip(parts, paths, strict=True) for note in part.notes]
    n_bad = sum(part.n_bad for part in parts)
    if any(part.is_large for part in parts):
        joined = np.concatenate([_prompts_of(part) if part.prompts is None else part.prompts for part in parts])
        named = [Named(part, f"{i}/" if i else "") for i, part in enumerate(parts)]
        return SampleSet(Joined(named), notes, n_bad, joined)
    taken: set[str] = set()
    rows: list[Sample] = []
    for part, path in zip(parts, paths, strict=True):
        for sample in part:
            if sample.id in taken:
                sample = replace(sample, id=f"{path.stem}/{sample.id}")
            if sample.id in taken:
                raise SampleError(f"{path}: id {sample.id!r} is used by another file of --data too; give its rows other ids")
            taken.add(sample.id)
            rows.append(sample)
    return SampleSet(rows, notes, n_bad)


def _prompts_of(samples: Sequence[Sample]) -> _Array:
    return np.array([hash((one.question, one.images or one.video)) for one in samples], dtype=np.int64)


# ---- whose rows


def _is_native(path: Path) -> bool:
    """Whether a file holds our own schema, by its first row. Raises SampleError for a file that Git LFS has not fetched."""
    suffix = path.suffix.lower()
    if not path.is_file() or suffix in set(TABLE_FILES) - {".jsonl", ".ndjson"}:
        return False
    start = start_of(path).lstrip()
    if start[:1] == b"[" or (start[:1] not in (b"{", b"\xef", b"") and suffix not in ("", ".jsonl", ".ndjson")):
        return False
    row = first_row(path)
    return row is None or is_native_row(row)


def first_row(path: Path) -> Any:
    """The first row of a JSONL file; None where it is no JSON object."""
    with path.open("rb") as lines:
        for raw in lines:
            if raw.strip():
                try:
                    row = json.loads(raw.decode("utf-8-sig"))
                except (ValueError, RecursionError):
                    return None
                return row if isinstance(row, dict) else None
    return None


def is_native_row(row: dict[str, Any]) -> bool:
    """Whether a row has our own schema, maybe with a mistake that its reader names. Columns of images count where this row has
    none in them; a `task` in several words, as ScienceQA has it, is none of ours."""
    row = {key: value for key, value in row.items() if value is not None or ("images" not in row and key in IMAGE_COLUMNS)}
    is_phrase = " " in str(row.get("task")).strip() and form_of(row) is not None and not set(row) <= _NATIVE_KEYS
    own = set(row) & _NATIVE_KEYS
    others = set(IMAGE_COLUMNS) - {"images"} - ({"image_url"} if "images" in row else set())
    has_others = bool(others & set(row)) or bool(numbered_images(row))
    if "task" in row and not has_others and not is_phrase:
        return True
    if set(row) <= _NATIVE_KEYS and "id" in row:
        return True
    return form_of(row) is None and len(own) >= 3 and not has_others


def _read_foreign(path: Path, root: Path | None, tasks: Sequence[str]) -> SampleSet:
    """The samples of another project's file. Raises SampleError, which names the command that converts it where that helps."""
    table = open_table(path)
    found, rows = Found(), _Spool(path)
    try:
        for sample in _samples(table, root, found, _box_task(tasks)):
            rows.add(_as_task_of(sample, tasks))
    except UnitError as error:
        raise SampleError(f"{error}. Convert it: {converter(path, root, error.option)}") from error
    except InsideRow as error:
        raise SampleError(f"{error}. Write them as files: {converter(path, root, '--export_images')}") from error
    except SampleError as error:
        if "in no known form" in str(error):
            option = "--map question=COLUMN,answer=COLUMN,image=COLUMN"
            raise SampleError(f"{error}. Say which column holds what: {converter(path, root, option)}") from error
        raise
    if too_many_bad(found):
        raise SampleError(
            f"{path}: {found.n_bad:,} of {found.n_rows:,} rows cannot be used, the first: {'; '.join(found.bad)}. Mend them, or"
            f" convert what is good: {converter(path, root, '--max_skipped 1')}"
        )
    return rows.finished(found)


def _samples(table: Table, root: Path | None, found: Found, task: str) -> Iterator[Sample]:
    problems: list[str] = []
    first = next(iter(table.read(lambda where, problem: problems.append(f"{where}: {problem}"))), None)
    if first is None:
        raise SampleError(f"{table.folder / table.name}: holds no rows" + (f"; {problems[0]}" if problems else ""))
    if not is_native_row(first[1]):
        yield from foreign_samples(table, RowReading(task=task), root, found, found.note_bad)
        return
    taken: dict[str, str] = {}
    for where, row in table.read(found.note_unread):
        found.n_rows += 1
        sample = sample_from_json({key: value for key, value in row.items() if value is not None}, where, root or table.folder)
        if sample.id in taken:
            raise SampleError(f"{where}: id {sample.id!r} was used at {taken[sample.id]}; ids must be unique")
        taken[sample.id] = where
        yield sample


def _box_task(tasks: Sequence[str]) -> str:
    """What a row with one box is, where the tasks of a run leave one of both; "": by its words."""
    found = [task for task in ("grounding", "detection") if task in tasks]
    return found[0] if len(found) == 1 else ""


def converter(path: Path, root: Path | None, option: str) -> str:
    """The command that converts a file of another project."""
    out = path.with_suffix("").name + "_samples.jsonl"
    words = [
        "python data_prep/rows.py --data",
        shlex.quote(str(path)),
        option,
        f"--images {shlex.quote(str(root))}" if root else "",
    ]
    return " ".join([*filter(None, words), "--out", shlex.quote(out)])


def _as_task_of(sample: Sample, tasks: Sequence[str]) -> Sample:
    """Another project's rows name no task: they take the one task of the run where that is the user's own, and a label may be
    asked as a question."""
    if not tasks or sample.task in tasks:
        return sample
    if sample.task == "classification" and "qa" in tasks:
        return replace(sample, task="qa")
    if len(tasks) == 1 and tasks[0] not in BUILT_IN:
        return replace(sample, task=tasks[0])
    return sample


class _Spool:
    """Collects samples: the first `LARGE` in memory, more than that as lines of a temporary file without a name."""

    def __init__(self, path: Path) -> None:
        self._path, self._list = path, list[Sample]()
        self._file: IO[bytes] | None = None
        self._starts, self._prompts = array("q"), array("q")
        self._end = 0

    def add(self, sample: Sample) -> None:
        if self._file is None:
            self._list.append(sample)
            if len(self._list) > LARGE:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the set is used
                for one in self._list:
                    self._write(one)
                self._list.clear()
            return
        self._write(sample)

    def _write(self, sample: Sample) -> None:
        assert self._file is not None
        line = json.dumps(sample_to_json(sample)).encode() + b"\n"
        self._file.write(line)
        self._starts.append(self._end)
        self._end += len(line)
        self._prompts.append(int(_prompts_of([sample])[0]))

    def finished(self, found: Found) -> SampleSet:
        """What was collected. Raises SampleError where that is nothing."""
        notes = found.notes()
        if self._file is None:
            if not self._list:
                raise SampleError(f"{self._path}: holds no samples" + (f" ({'; '.join(notes)})" if notes else ""))
            return SampleSet(self._list, notes, found.n_bad)
        self._file.flush()
        starts, prompts = (np.frombuffer(one, dtype=np.int64) for one in (self._starts, self._prompts))
        return SampleSet(Lines(self._file, starts, Path(), str(self._path)), notes, found.n_bad, prompts)
