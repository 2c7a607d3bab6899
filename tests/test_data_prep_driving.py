"""Driving records: AlphaDrive's form, ours, and words derived from recorded trajectories."""

import csv
import json
import math
from pathlib import Path

import pytest
from PIL import Image

from data_prep import driving
from data_prep.meta_actions import Thresholds, Trajectory, meta_action, trajectory_problem
from vlrl.data.sample_files import read_samples
from vlrl.tasks import TASKS

pytestmark = pytest.mark.quick

PROBLEM = (
    "You are an expert driving assistant. Your current speed is {speed}m/s, the navigation command is {navigation}, based on "
    "the understanding of the driving scene and the navigation information, what is your driving plan for the next three "
    "seconds? Output the planning reasoning process in <think> </think> and final planning answer in <answer> </answer> tags."
)


class Records:
    """A file of driving records in the making."""

    def __init__(self, root):
        self.root, self.out = root, root / "out" / "plan.jsonl"
        for name in ("a.jpg", "b.jpg"):
            Image.new("RGB", (48, 27), (90, 120, 150)).save(root / name)

    def write(self, rows, name="log.jsonl"):
        path = self.root / name
        if path.suffix == ".jsonl":
            path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows))
        else:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, dict.fromkeys(key for row in rows for key in row))
                writer.writeheader()
                writer.writerows(rows)
        return path

    def run(self, rows, *options, name="log.jsonl"):
        path = self.write(rows, name)
        code = driving.main(
            ["--data", str(path), "--out", str(self.out), "--overwrite", "--max_skipped", "1", *map(str, options)]
        )
        return read_samples(self.out) if code == 0 else code


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path)


def alphadrive(speed="5", navigation="'Straight'", solution="<answer> KEEP, LEFT_TURN </answer>", **more):
    return {"image": "a.jpg", "problem": PROBLEM.format(speed=speed, navigation=navigation), "solution": solution} | more


def ours(**more):
    return {"image": "a.jpg", "speed_mps": 4.2, "navigation": "go straight", "speed": "KEEP", "path": "STRAIGHT"} | more


def test_alphadrive_record(records, capsys):
    (sample,) = records.run([alphadrive(thinking=" The light is red. ")], "--strict", name="train.json")
    assert (sample.id, sample.task, sample.question) == ("train-1", "planning", "plan the next three seconds")
    assert sample.answer == {"speed": "KEEP", "path": "LEFT_TURN"}
    assert sample.meta == {
        "speed_mps": 5.0,
        "navigation": "Straight",
        "thinking": "The light is red.",
        "dataset": "train",
        "source_id": "1",
    }
    task = TASKS["planning"]
    assert task.check(sample) is None
    assert "Speed: 5.0 m/s\nNavigation: Straight" in task.prompt(sample)
    assert task.oracle(sample) == "<think>The light is red.</think><answer>KEEP, LEFT_TURN</answer>"
    out = capsys.readouterr().out.splitlines()
    assert "plans      1 KEEP, LEFT_TURN" in out
    assert out[-1] == str(records.out)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("'Turn left onto King's Road'", "Turn left onto King's Road"),
        ('"Straight, then left"', "Straight, then left"),
        ("Straight", "Straight"),
        ("{'100m': 'Straight', '200m': 'Turn right'}", {"100m": "Straight", "200m": "Turn right"}),
        ('\'{"100m": "Straight"}\'', {"100m": "Straight"}),
    ],
)
def test_navigation_inside_the_sentence(records, written, read):
    (sample,) = records.run([alphadrive(navigation=written)], "--strict")
    assert sample.meta["navigation"] == read
    assert "current speed" not in sample.question


@pytest.mark.parametrize(
    "solution",
    [
        "STOP, STRAIGHT",
        "<answer>straight, stop.</answer>",
        "<think>A red light.</think>\n<answer>STOP,\nSTRAIGHT</answer>",
    ],
)
def test_solutions_tagged_bare_and_in_any_case(records, solution):
    (sample,) = records.run([alphadrive(solution=solution)], "--strict")
    assert sample.answer == {"speed": "STOP", "path": "STRAIGHT"}
    assert sample.meta.get("thinking") == ("A red light." if "think" in solution else None)


def test_our_rows_from_jsonl_and_csv(records):
    navigation = {"100m": "go straight", "250m": "turn left"}
    rows = [ours(id="x7", navigation=navigation), ours(image=["a.jpg", "b.jpg"], speed="stop", path="right change")]
    first, second = records.run(rows, "--strict")
    assert (first.id, first.meta["source_id"], first.meta["speed_mps"]) == ("log-x7", "x7", 4.2)
    assert first.meta["navigation"] == navigation
    assert [Path(path).name for path in second.images] == ["a.jpg", "b.jpg"]
    assert second.answer == {"speed": "STOP", "path": "RIGHT_CHANGE"}
    cells = [ours(navigation=json.dumps(navigation)), ours(image='["a.jpg", "b.jpg"]', speed="STOP", navigation="")]
    third, fourth = records.run(cells, "--strict", name="log.csv")
    assert third.meta["navigation"] == navigation
    assert len(fourth.images) == 2
    assert "navigation" not in fourth.meta


BAD = [
    (alphadrive(speed="fast"), "no 'speed is ... m/s' in the problem"),
    (alphadrive(solution="KEEP"), "is not one of KEEP"),
    (alphadrive(solution="KEEP, STOP, STRAIGHT"), "is not one of KEEP"),
    (alphadrive(solution="<answer>KEEP, STRAIGHT</answer><answer>STOP, STRAIGHT</answer>"), "2 answer blocks"),
    (alphadrive(solution=None), "must be texts"),
    (alphadrive(navigation="{'100m': Straight}"), "is not an object"),
    (alphadrive(image="gone.jpg"), "no such image"),
    (alphadrive(image=None), "'image' must be a path"),
    (ours(speed="FLY"), "is not one of KEEP"),
    (ours(speed_mps="fast"), "speed_mps must be a finite number, got 'fast'"),
    (ours(navigation=3), "navigation must be a text or an object, got 3"),
    ("{", "not a line of UTF-8 JSON"),
    ('{"speed_mps": NaN}', "NaN is not a JSON number"),
    ("[1]", "a row is a JSON object"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_rows_are_reported_with_file_and_line_and_skipped(records, capsys, bad, message):
    samples = records.run([ours(), bad, alphadrive()])
    assert [sample.id for sample in samples] == ["log-1", "log-2" if isinstance(bad, str) else "log-3"]
    captured = capsys.readouterr()
    assert f"skipped: {records.root / 'log.jsonl'}:2: " in captured.err
    assert message in captured.err
    assert "skipped    1 bad annotations" in captured.out
    records.out.unlink()
    with pytest.raises(SystemExit, match=r"log\.jsonl:2: "):
        records.run([ours(), bad], "--strict")
    assert not records.out.exists()


def test_a_csv_row_with_too_many_cells(records, capsys):
    path = records.root / "log.csv"
    path.write_text("image,speed_mps,speed,path\na.jpg,4,KEEP,STRAIGHT\na.jpg,4,KEEP,STRAIGHT,left\n")
    assert driving.main(["--data", str(path), "--out", str(records.out), "--max_skipped", "1"]) == 0
    assert f"{path}:3: more cells than the 4 columns" in capsys.readouterr().err


def test_ids_used_twice_are_numbered(records):
    assert [sample.id for sample in records.run([ours(id=1), ours(id=1), ours(id="1-2")])] == ["log-1", "log-1-2", "log-1-2-2"]


# ---- trajectories: 13 poses over 3 s


TIMES = tuple(i / 4 for i in range(13))


def drive(speed, heading_deg=lambda t: 0.0, start_deg=0.0):
    return Trajectory(TIMES, tuple(speed(t) for t in TIMES), tuple(math.radians(start_deg + heading_deg(t)) for t in TIMES))


def lane_change(width_m, speed_mps=12.0, start_deg=0.0):
    """A smooth change of lane of `width_m` to the left, complete after 3 s, as positions."""
    dense = [i / 100 for i in range(301)]
    aside = {t: width_m * (1 - math.cos(math.pi * t / 3)) / 2 for t in dense}
    turn = math.radians(start_deg)
    positions = [
        (
            7 + speed_mps * t * math.cos(turn) - aside[t] * math.sin(turn),
            -3 + speed_mps * t * math.sin(turn) + aside[t] * math.cos(turn),
        )
        for t in TIMES
    ]
    slopes = [width_m * math.pi / 6 * math.sin(math.pi * t / 3) / speed_mps for t in TIMES]
    return Trajectory(TIMES, (speed_mps,) * 13, tuple(turn + math.atan(slope) for slope in slopes), tuple(positions))


SPEED_CASES = [
    (lambda t: 8.0, "KEEP"),
    (lambda t: 8.0 + 0.3 * t, "KEEP"),
    (lambda t: 8.0 + 0.4 * t, "ACCELERATE"),
    (lambda t: 8.0 - 0.3 * t, "KEEP"),
    (lambda t: 8.0 - 0.4 * t, "DECELERATE"),
    (lambda t: max(0.0, 8.0 - 3 * t), "STOP"),
    (lambda t: 0.0, "STOP"),
    (lambda t: 0.5 * t, "ACCELERATE"),
]


@pytest.mark.parametrize(("speed", "word"), SPEED_CASES)
def test_speed_words(speed, word):
    assert meta_action(drive(speed), Thresholds()) == {"speed": word, "path": "STRAIGHT"}


@pytest.mark.parametrize("start_deg", [0.0, 90.0, 179.0, -135.0])
@pytest.mark.parametrize(
    ("rate_deg_s", "word"), [(0, "STRAIGHT"), (8, "STRAIGHT"), (-8, "STRAIGHT"), (9, "LEFT_TURN"), (-30, "RIGHT_TURN")]
)
def test_turns_and_bends(rate_deg_s, word, start_deg):
    """A bend of 24 degrees at 15 m/s ends 9 m to the side and is still no change of lane."""
    bend = drive(lambda t: 15.0, lambda t: rate_deg_s * t, start_deg)
    assert meta_action(bend, Thresholds())["path"] == word


def test_headings_may_jump_from_180_to_minus_180():
    turned = [175 + 2 * t for t in TIMES], [175 + 20 * t for t in TIMES]
    wrapped = [Trajectory(TIMES, (5.0,) * 13, tuple(math.radians((h + 180) % 360 - 180) for h in one)) for one in turned]
    assert [meta_action(one, Thresholds())["path"] for one in wrapped] == ["STRAIGHT", "LEFT_TURN"]


@pytest.mark.parametrize("start_deg", [0.0, 77.0, -160.0])
@pytest.mark.parametrize(
    ("width_m", "word"), [(3.5, "LEFT_CHANGE"), (-3.5, "RIGHT_CHANGE"), (1.5, "STRAIGHT"), (-1.5, "STRAIGHT")]
)
def test_lane_changes(width_m, word, start_deg):
    trajectory = lane_change(width_m, start_deg=start_deg)
    assert meta_action(trajectory, Thresholds())["path"] == word
    without_positions = Trajectory(trajectory.times_s, trajectory.speeds_mps, trajectory.headings_rad)
    assert meta_action(without_positions, Thresholds())["path"] == word, "integrated from speeds and headings"


def test_thresholds_move_the_words():
    slow = drive(lambda t: 8 - 0.4 * t)
    assert meta_action(slow, Thresholds(speed_change_mps=2))["speed"] == "KEEP"
    assert meta_action(slow, Thresholds(stop_mps=7))["speed"] == "STOP"
    assert meta_action(lane_change(3.5), Thresholds(lane_change_m=4))["path"] == "STRAIGHT"
    assert meta_action(drive(lambda t: 5.0, lambda t: 8 * t), Thresholds(turn_deg=20))["path"] == "LEFT_TURN"
    late_turn = drive(lambda t: 5.0, lambda t: max(0, 40 * (t - 2)))
    assert meta_action(late_turn, Thresholds())["path"] == "LEFT_TURN"
    assert meta_action(late_turn, Thresholds(horizon_s=2))["path"] == "STRAIGHT", "what comes later is not looked at"


@pytest.mark.parametrize(
    ("trajectory", "message"),
    [
        (Trajectory((0, 1, 3), (5, 5), (0, 0, 0)), "differ in length (3, 2, 3)"),
        (Trajectory((0, 1, 3), (5, 5, 5), (0, 0, 0), ((0, 0),)), "differ in length (3, 3, 3, 1)"),
        (Trajectory((0, 2, 1), (5, 5, 5), (0, 0, 0)), "times must rise"),
        (Trajectory((0,), (5,), (0,)), "times must rise"),
        (Trajectory((0, 3), (5, math.nan), (0, 0)), "not a finite number"),
        (Trajectory((1, 3), (5, 5), (0, 0)), "begins at 1 s"),
        (Trajectory((0, 2.5), (5, 5), (0, 0)), "ends after 2.5 s, before the horizon of 3 s"),
    ],
)
def test_trajectories_that_cannot_be_labelled(trajectory, message):
    assert message in trajectory_problem(trajectory, 3)


def trajectory_row(**more):
    times = [0, 1, 2, 3]
    return {"image": "a.jpg", "times_s": times, "speeds_mps": [8, 6, 4, 2], "headings_deg": [0, 10, 20, 30]} | more


def test_rows_with_trajectories(records, capsys):
    rows = [trajectory_row(navigation="turn left", id="n1"), trajectory_row(speeds_mps=[8, 8, 8], id="n2")]
    (sample,) = records.run(rows, "--from_trajectory")
    assert (sample.id, sample.answer) == ("log-n1", {"speed": "DECELERATE", "path": "LEFT_TURN"})
    assert sample.meta["speed_mps"] == 8
    assert sample.meta["navigation"] == "turn left"
    assert "log.jsonl:2: times, speeds, headings and positions differ in length" in capsys.readouterr().err
    (sample,) = records.run(rows[:1], "--from_trajectory", "--turn_deg", "40", "--speed_change_mps", "7")
    assert sample.answer == {"speed": "KEEP", "path": "STRAIGHT"}
    (sample,) = records.run(rows[:1], "--from_trajectory", "--horizon_s", "2")
    assert sample.question == "plan the next 2 seconds"
    positions = [[0, 0], [10, 0], [20, 2], [30, 3.6]]
    aside = trajectory_row(headings_deg=[0, 0, 0, 0], positions_m=positions)
    cells = [{key: json.dumps(value) if isinstance(value, list) else value for key, value in aside.items()}]
    (sample,) = records.run(cells, "--from_trajectory", "--strict", name="log.csv")
    assert sample.answer["path"] == "LEFT_CHANGE"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (trajectory_row(times_s=None), "times_s must be a list of numbers, got None"),
        (trajectory_row(times_s="0 1 2 3"), "times_s is not JSON"),
        (trajectory_row(headings_deg=[0, "left", 0, 0]), "headings_deg must be a finite number, got 'left'"),
        (trajectory_row(speeds_mps=[True, 1, 1, 1]), "speeds_mps must be a finite number, got True"),
        (trajectory_row(positions_m=[1, 2, 3, 4]), "positions_m must be a list of [x, y]"),
        (ours(), "times_s must be a list of numbers"),
    ],
)
def test_bad_trajectories(records, capsys, row, message):
    assert records.run([row], "--from_trajectory") == 1
    captured = capsys.readouterr().err
    assert message in captured
    assert "no samples: 1 rows read" in captured


def test_limit_seed_and_overwriting(records):
    rows = [ours(id=i) for i in range(20)]
    drawn = [sample.id for sample in records.run(rows, "--limit", 5, "--seed", 1)]
    first = records.out.read_bytes()
    assert len(drawn) == 5
    assert drawn == [sample.id for sample in records.run(rows, "--limit", 5, "--seed", 1)]
    assert records.out.read_bytes() == first
    assert drawn != [sample.id for sample in records.run(rows, "--limit", 5, "--seed", 2)]
    with pytest.raises(SystemExit, match="exists"):
        driving.main(["--data", str(records.root / "log.jsonl"), "--out", str(records.out)])


@pytest.mark.parametrize("options", [["--turn_deg", "0"], ["--stop_mps", "x"], ["--images", "nowhere"]])
def test_wrong_options_exit_with_2(records, options):
    with pytest.raises(SystemExit) as stop:
        records.run([ours()], *options)
    assert stop.value.code == 2


def test_more_bad_rows_than_a_few_per_cent_are_an_error(records, capsys):
    rows = [alphadrive(), *[alphadrive(solution="none")] * 4]
    assert records.run(rows, "--max_skipped", "0.03") == 1
    said = capsys.readouterr().err
    assert "nothing written: 4 of 5 rows cannot be used" in said
    assert all(f"log.jsonl:{line}: " in said.splitlines()[-1] for line in (2, 3, 4))
    assert len(records.run(rows, "--max_skipped", "0.8")) == 1
