"""Answers as models really write them, with the value each must earn: every row with a `reward` in `tests/cases/*.jsonl`.

Rows have the form `{"reward", "sample", "completion", "expected"}` (`completions` for a group); a file is a kind of answer.
"""

import json
from pathlib import Path

import pytest

from vlrl.rewards import load_reward
from vlrl.rewards.grading import grade_case, options_in

pytestmark = pytest.mark.quick

CASES = Path(__file__).parent / "cases"


def rows():
    found = []
    for path in sorted(CASES.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            row = json.loads(line)
            if "reward" in row:
                found.append(pytest.param(row, id=f"{path.stem}:{number}"))
    return found


@pytest.mark.parametrize("row", rows())
def test_the_value_of_a_case(row):
    case = {key: value for key, value in row.items() if key not in ("reward", "expected")}
    options = options_in(case)
    scores = grade_case(load_reward(f"{row['reward']}:{options}" if options else row["reward"]), case, "a case")
    expected = row["expected"] if isinstance(row["expected"], list) else [row["expected"]]
    assert [score.value for score in scores] == [None if v is None else pytest.approx(v, abs=1e-4) for v in expected], scores
    assert all(score.why for score in scores)
