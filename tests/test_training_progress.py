"""What a run shows while it trains: a table that fits a terminal, one plain line a step in a file."""

import io

import pytest
from rich.console import Console

from vlrl.training.progress import SFT_COLUMNS, VALUE_COLUMNS, StepLog, grpo_columns

ROW = {
    "step": 3, "reward": 0.5472, "reward_std": 0.319, "rewards/iou_f1/mean": 0.2971, "rewards/think_answer_format/mean": 1.0,
    "frac_reward_zero_std": 0.5, "completions/mean_length": 19.04, "completions/clipped_ratio": 0.0, "step_time": 1.93,
}  # fmt: skip
REWARDS = ("iou_f1", "think_answer_format")


def shown(columns, rows, width=None, name="step"):
    """What a console of this width got; a plain file for None."""
    file = io.StringIO()
    options = {} if width is None else {"force_terminal": True, "width": width, "height": 40, "color_system": None}
    with StepLog(name, columns, Console(file=file, **options)) as log:
        for i, row in enumerate(rows):
            log.show({**row, "step": i + 1}, len(rows), 60.0)
    return file.getvalue()


def test_a_file_gets_one_plain_line_a_step():
    text = shown(grpo_columns(REWARDS), [ROW] * 2)
    assert text.splitlines()[1] == (
        "step 2/2  reward 0.547  std 0.319  iou_f1 0.297  think_answer_format 1.000  zero-variance groups 0.500  length 19.0"
        "  truncated 0.000  1.9 s  ETA 1:00"
    )
    assert len(text.splitlines()) == 2
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_a_table_that_fits(width):
    text = shown(grpo_columns(REWARDS), [ROW] * 20, width)
    last = text.split("\x1b[2K")[-1].splitlines()
    table = [line for line in last if line.strip() and "\x1b" not in line]
    assert max(map(len, table)) <= width
    assert "…" not in "".join(table), "every number and name can be read"
    assert [line.split()[0] for line in table if line.split()[0].isdigit()] == [str(i) for i in range(9, 21)], "the latest"
    assert table[-1].startswith("step 20 of 20, about 1:00 left")


def test_a_number_that_a_step_does_not_have_is_left_out_of_its_line_and_a_dash_in_the_table():
    assert "replaced" not in shown(grpo_columns(REWARDS), [ROW])
    assert "replaced 2" in shown(grpo_columns(REWARDS), [{**ROW, "dynamic_sampling/replaced": 2.0}])
    assert "iou_f1" not in shown(grpo_columns(REWARDS), [{**ROW, "rewards/iou_f1/mean": None}])
    rows = [{**ROW, "rewards/iou_f1/mean": None}, ROW]
    assert " - " in shown(grpo_columns(REWARDS), rows, 120).split("\x1b[2K")[-1]


def test_the_other_stages_have_lines_of_their_own():
    row = {"loss": 0.51234, "mean_token_accuracy": 0.9}
    assert shown(SFT_COLUMNS, [row], name="sft") == "sft 1/1  loss 0.5123  token accuracy 0.900  ETA 1:00\n"
    assert shown(VALUE_COLUMNS, [row], name="prm") == "prm 1/1  loss 0.5123  ETA 1:00\n"


def test_a_run_without_steps_shows_nothing():
    assert shown(grpo_columns(REWARDS), []) == ""
    assert shown(grpo_columns(REWARDS), [], 80) == ""


@pytest.mark.parametrize("width", [None, 80])
def test_a_line_of_its_own_stands_above_the_table_as_it_is(width):
    file, line = io.StringIO(), "event     [bold]constant_reward[/bold] " + "long " * 40
    options = {} if width is None else {"force_terminal": True, "width": width, "height": 40, "color_system": None}
    with StepLog("step", VALUE_COLUMNS, Console(file=file, **options)) as log:
        log.say("event     before the first step")
        for i in range(3):
            log.show({"step": i + 1, "loss": 0.5}, 3)
            if i == 1:
                log.say(line)
    text = file.getvalue()
    assert "before the first step" in text
    assert text.count(line) == 1, "no markup is read, and no line is broken"
    if width:
        assert "step 3 of 3" in text.partition(line)[2]
        assert "step 3 of 3" not in text.partition(line)[0]
