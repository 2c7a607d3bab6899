"""JSON files: rows with their places, messages that name file and line, the same bytes back."""

import hashlib

import pytest

from vlrl.data.files import read_json_lines, read_json_object, sha256_of, write_json_lines
from vlrl.schema import SampleError

pytestmark = pytest.mark.quick


def test_lines_come_with_their_places_and_empty_ones_are_skipped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n  {"a": "\u2028 is no line end"}\n', encoding="utf-8")
    assert list(read_json_lines(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:3", {"a": "\u2028 is no line end"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a"', ":2: not a line of JSON"),
        (b"[1]", ":1: a JSON object is needed, got list"),
        (b"\xff", ": cannot be read"),
        (None, ": cannot be read"),
    ],
)
def test_what_is_not_an_object_is_one_line(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SampleError) as stop:
        list(read_json_lines(path))
    assert str(stop.value).startswith(f"{path}{message}")


@pytest.mark.parametrize(("content", "message"), [("{", "not JSON"), ("[]", "a JSON object is needed, got list")])
def test_an_object_of_a_flag_names_the_flag(tmp_path, content, message):
    path = tmp_path / "map.json"
    path.write_text(content)
    with pytest.raises(SampleError, match=f"--fields {path}: {message}"):
        read_json_object(path, "--fields")


def test_written_lines_are_read_back_and_have_the_digest_of_their_bytes(tmp_path):
    path, rows = tmp_path / "rows.jsonl", [{"a": "é"}, {"b": [1, None]}]
    write_json_lines(path, rows)
    assert [row for _, row in read_json_lines(path)] == rows
    assert path.read_bytes().isascii()
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
