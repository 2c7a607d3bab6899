"""What a benchmark says on the way: what is counted, how fast, how long still; in a log file one line now and then."""

import io

import pytest

from vlrl.bench import progress
from vlrl.bench.progress import Progress, rate_text, time_text

pytestmark = pytest.mark.quick


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_file_gets_one_line_now_and_then(clock):
    file = io.StringIO()
    with Progress("qa", 720, "requests", stream=file) as shown:
        for _ in range(720):
            clock[0] += 10
            shown.add(1)
    lines = file.getvalue().splitlines()
    assert lines[0] == "qa: 6 of 720 requests, 6.0 a minute, about 119 min left".replace("119 min", "1 h 59 min")
    assert 5 <= len(lines) <= 12, "of two hours"
    assert "\r" not in file.getvalue()


def test_a_short_run_says_nothing_in_a_log_file(clock):
    file = io.StringIO()
    with Progress("qa", 720, "requests", stream=file) as shown:
        for _ in range(720):
            clock[0] += 0.05
            shown.add(1)
    assert file.getvalue() == ""
    with Progress("qa", 0, "requests", stream=file), Progress("qa", 3, "requests", stream=file, shown=False) as hidden:
        clock[0] += 1000
        hidden.add(1)
    assert file.getvalue() == ""


def test_a_terminal_gets_a_bar_that_says_what_is_counted():
    terminal = Terminal()
    with Progress("qa", 7, "requests", stream=terminal) as shown:
        shown.add(3)
        shown.add(4)
    assert "qa: 0 of 7 requests" in terminal.getvalue()
    assert "left" in terminal.getvalue()
    assert "sample" not in terminal.getvalue()


def test_rates_and_durations():
    assert [rate_text(one) for one in (12.34, 1, 0.5, 0.001)] == [
        "12.3 a second",
        "1.0 a second",
        "30.0 a minute",
        "3.6 an hour",
    ]
    assert [time_text(one) for one in (5, 89, 91, 3600, 7500)] == ["5 s", "89 s", "2 min", "60 min", "2 h 5 min"]
