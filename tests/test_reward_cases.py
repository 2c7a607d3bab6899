"""Answers as models really write them, with the value each must earn: every row with a `reward` in `tests/cases/*.jsonl`.

Rows have the form `{"reward", "sample", "completion", "expected"}` (`completions` for a group); a file is a kind of answer and
one test, which names all its rows that are wrong.
"""

import json
from pathlib import Path

import pytest

from vlrl.rewards import load_reward
from vlrl.rewards.grading import grade_case, options_in

pytestmark = pytest.mark.quick

CASES = Path(__file__).parent / "cases"


def kinds():
    found = {}
    for path in sorted(CASES.glob("*.jsonl")):
        lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if rows := [(number, row) for number, line in lines if "reward" in (row := json.loads(line))]:
            found[path.stem] = rows
    return found


def problem(row):
    """What is wrong with the values of a row, or None."""
    case = {key: value for key, value in row.items() if key not in ("reward", "expected")}
    options = options_in(case)
    scores = grade_case(load_reward(f"{row['reward']}:{options}" if options else row["reward"]), case, "a case")
    expected = row["expected"] if isinstance(row["expected"], list) else [row["expected"]]
    right = [score.value for score in scores] == [None if v is None else pytest.approx(v, abs=1e-4) for v in expected]
    return None if right and all(score.why for score in scores) else f"{scores}, expected {expected}: {row}"


@pytest.mark.parametrize(("kind", "rows"), kinds().items(), ids=kinds())
def test_the_values_of_all_rows_of_a_kind(kind, rows):
    wrong = [f"{kind}.jsonl:{number}: {found}" for number, row in rows if (found := problem(row))]
    assert not wrong, "\n".join(wrong)
