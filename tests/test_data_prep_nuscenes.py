"""nuScenes tables on small ones in the official schema: 12 Hz front camera frames, every sixth a key frame."""

import json
import math
from collections import Counter

import pytest
from PIL import Image

from data_prep import nuscenes
from vlrl.data.sample_files import read_samples
from vlrl.tasks import TASKS

pytestmark = pytest.mark.quick

START_US = 1532402927612460


class Tables:
    """nuScenes tables in the making. The official ones have more columns, some of which are here to be ignored."""

    def __init__(self, root):
        self.root, self.out = root, root / "out" / "plan.jsonl"
        sensors = [("CAM_FRONT", "camera"), ("CAM_BACK", "camera"), ("LIDAR_TOP", "lidar")]
        self.tables = {
            "sensor": [{"token": f"sensor-{name}", "channel": name, "modality": kind} for name, kind in sensors],
            "calibrated_sensor": [
                {"token": f"mount-{car}-{name}", "sensor_token": f"sensor-{name}", "translation": [1.7, 0, 1.5]}
                for car in (1, 2)
                for name, _ in sensors
            ],
            "scene": [],
            "sample": [],
            "sample_data": [],
            "ego_pose": [],
        }

    def scene(self, name, pose, seconds=5.0, car=1, rate=12, channels=("CAM_FRONT", "LIDAR_TOP")):
        """`pose(t)` -> x, y in metres and yaw in radians."""
        self.tables["scene"].append({"token": f"scene-{name}", "name": name, "nbr_samples": 1, "description": "night"})
        for i in range(round(seconds * rate) + 1):
            key = i // (rate // 2)
            is_key = i % (rate // 2) == 0
            if is_key:
                self.tables["sample"].append(
                    {"token": f"{name}-{key}", "timestamp": START_US + i * 10**6 // rate, "scene_token": f"scene-{name}"}
                )
            for channel in channels:
                self._frame(name, channel, i, rate, is_key, min(key + (not is_key), round(seconds * 2)), pose, car)

    def _frame(self, name, channel, i, rate, is_key, key, pose, car):
        token = f"{name}-{channel}-{i}"
        x, y, yaw = pose(i / rate)
        file = f"{'samples' if is_key else 'sweeps'}/{channel}/{token}.jpg"
        self.tables["ego_pose"].append(
            {
                "token": token,
                "timestamp": START_US + i * 10**6 // rate,
                "rotation": [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)],
                "translation": [x, y, 0.0],
            }
        )
        self.tables["sample_data"].append(
            {
                "token": token,
                "sample_token": f"{name}-{key}",
                "ego_pose_token": token,
                "calibrated_sensor_token": f"mount-{car}-{channel}",
                "timestamp": START_US + i * 10**6 // rate,
                "fileformat": "jpg",
                "is_key_frame": is_key,
                "height": 900,
                "width": 1600,
                "filename": file,
                "prev": "",
                "next": "",
            }
        )
        if is_key and channel == "CAM_FRONT":
            path = self.root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 9), (90, 120, 150)).save(path)

    def row(self, table, token):
        return next(row for row in self.tables[table] if row["token"] == token)

    def write(self):
        folder = self.root / "v1.0-mini"
        folder.mkdir(exist_ok=True)
        for name, rows in self.tables.items():
            (folder / f"{name}.json").write_text(rows if isinstance(rows, str) else json.dumps(rows, indent=0))

    def run(self, *options):
        self.write()
        arguments = ["--root", str(self.root), "--version", "v1.0-mini", "--out", str(self.out), "--overwrite"]
        code = nuscenes.main([*arguments, "--max_skipped", "1", *map(str, options)])
        return read_samples(self.out) if code == 0 else code


def straight(t, speed=6.0, yaw=5 * math.pi / 6):
    """At constant speed; the yaw of 150 degrees crosses none of the axes."""
    return 400 + speed * t * math.cos(yaw), 1100 + speed * t * math.sin(yaw), yaw


def left_bend(t, speed=5.0, rate=math.pi / 9):
    """A circle to the left at 20 degrees a second, from a yaw of 170: the yaw jumps from 180 to -180 under way."""
    start, turned = math.radians(170), rate * t
    radius = speed / rate
    x = radius * (math.sin(start + turned) - math.sin(start))
    y = radius * (math.cos(start) - math.cos(start + turned))
    yaw = start + turned
    return x, y, math.atan2(math.sin(yaw), math.cos(yaw))


def braking(t):
    """From 6 m/s to a stand in 3 s."""
    at = min(t, 3.0)
    return 6 * at - at * at, 0.0, 0.0


@pytest.fixture
def tables(tmp_path):
    return Tables(tmp_path)


def test_key_frames_with_their_future(tables, capsys):
    tables.scene("scene-0061", straight)
    samples = tables.run("--strict")
    # 5 s at 2 Hz are 11 key frames, 0.0 .. 5.0 s; those up to 2.25 s have 3 s less a quarter ahead of them
    assert [sample.meta["source_id"] for sample in samples] == [f"scene-0061-{i}" for i in range(5)]
    first = samples[0]
    assert (first.id, first.task, first.question) == ("nuscenes-scene-0061-0", "planning", "plan the next three seconds")
    assert first.answer == {"speed": "KEEP", "path": "STRAIGHT"}
    assert first.meta == {
        "speed_mps": 6.0,
        "dataset": "nuscenes",
        "split": "v1.0-mini",
        "scene": "scene-0061",
        "source_id": "scene-0061-0",
    }
    assert first.images[0].endswith("samples/CAM_FRONT/scene-0061-CAM_FRONT-0.jpg")
    assert all(TASKS["planning"].check(sample) is None for sample in samples)
    out = capsys.readouterr().out.splitlines()
    assert "scenes     1 (of 1)" in out
    assert "too late   6 key frames less than 3 s before the end of their scene" in out
    assert out[-1] == str(tables.out)


def test_words_follow_the_ego_poses(tables):
    tables.scene("bend", left_bend)
    tables.scene("brake", braking, seconds=6)
    tables.scene("right", lambda t: (lambda x, y, yaw: (x, -y, -yaw))(*left_bend(t)), car=2)
    of_scene = {}
    for sample in tables.run("--strict"):
        of_scene.setdefault(sample.meta["scene"], []).append(sample)
    assert {tuple(sample.answer.values()) for sample in of_scene["bend"]} == {("KEEP", "LEFT_TURN")}
    assert {tuple(sample.answer.values()) for sample in of_scene["right"]} == {("KEEP", "RIGHT_TURN")}
    assert {sample.meta["speed_mps"] for sample in of_scene["bend"]} == {5.0}
    brake = [(sample.meta["speed_mps"], *sample.answer.values()) for sample in of_scene["brake"]]
    assert brake[0] == (pytest.approx(5.8, abs=0.2), "STOP", "STRAIGHT")
    assert brake[6] == (pytest.approx(0, abs=0.2), "STOP", "STRAIGHT"), "standing"
    shorter = {sample.id: sample for sample in tables.run("--horizon_s", 1, "--strict")}
    assert shorter["nuscenes-brake-0"].answer["speed"] == "DECELERATE"
    assert shorter["nuscenes-bend-0"].answer["path"] == "STRAIGHT"
    assert len(shorter) > sum(map(len, of_scene.values()))


def test_key_frames_alone_are_enough(tables):
    tables.scene("bend", left_bend, rate=2)
    samples = tables.run("--strict")
    assert len(samples) == 5
    assert {tuple(sample.answer.values()) for sample in samples} == {("KEEP", "LEFT_TURN")}


def test_scenes_are_not_mixed_and_can_be_chosen(tables, capsys):
    tables.scene("a", straight)
    tables.scene("b", left_bend)
    assert Counter(sample.meta["scene"] for sample in tables.run()) == {"a": 5, "b": 5}
    assert {sample.meta["scene"] for sample in tables.run("--scenes", "b")} == {"b"}
    names = tables.root / "val.txt"
    names.write_text("a\n\nzz\n")
    assert {sample.meta["scene"] for sample in tables.run("--scenes", names)} == {"a"}
    assert "no scene 'zz' (--scenes)" in capsys.readouterr().err


def test_the_route_ahead_becomes_the_navigation(tables):
    tables.scene("bend", left_bend)
    tables.scene("ahead", straight)
    navigation = {sample.id: sample.meta.get("navigation") for sample in tables.run("--route_m", 14)}
    assert navigation["nuscenes-bend-0"] == {"14m": "turn left"}
    assert navigation["nuscenes-ahead-0"] == {"14m": "go straight"}
    assert navigation["nuscenes-bend-4"] == {"14m": "turn left"}, "2 s into a scene of 25 m, 15 are left"
    far = {sample.id: sample.meta.get("navigation") for sample in tables.run("--route_m", 26)}
    assert far["nuscenes-ahead-0"] == {"26m": "go straight"}
    assert far["nuscenes-bend-0"] is None, "the scene ends before"


BAD_ROWS = [
    ("ego_pose", {"rotation": [1.0, 0.0]}, "rotation must be [w, x, y, z], got [1.0, 0.0]"),
    ("ego_pose", {"translation": [math.inf, 0.0, 0.0]}, "translation must be [x, y, z], got [inf, 0.0, 0.0]"),
    ("ego_pose", {"translation": None}, "translation must be [x, y, z], got None"),
    ("ego_pose", {"token": "other"}, "no usable ego pose with token 's-CAM_FRONT-0'"),
    ("sample_data", {"timestamp": "soon"}, "timestamp must be int, got 'soon'"),
    ("sample_data", {"filename": "samples/gone.jpg"}, "no such image"),
    ("sample_data", {"sample_token": "other"}, "no sample with token 'other'"),
    ("sample_data", {"calibrated_sensor_token": []}, "unhashable"),
]


@pytest.mark.parametrize(("table", "change", "message"), BAD_ROWS)
def test_bad_rows_are_reported_and_skipped(tables, capsys, table, change, message):
    tables.scene("s", straight)
    tables.row(table, "s-CAM_FRONT-0").update(change)
    assert [sample.meta["source_id"] for sample in tables.run()] == [f"s-{i}" for i in range(1, 5)]
    assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="--strict stops here"):
        tables.run("--strict")


def test_a_row_that_lacks_a_column_names_table_and_row(tables, capsys):
    tables.scene("s", straight)
    del tables.row("ego_pose", "s-CAM_FRONT-0")["rotation"]
    assert len(tables.run()) == 4
    assert (
        f"{tables.root / 'v1.0-mini/ego_pose.json'}: row 1 (token 's-CAM_FRONT-0'): it lacks rotation"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("content", ["{", '{"token": "a"}'])
def test_a_file_that_is_no_table_ends_the_program(tables, content):
    tables.scene("s", straight)
    tables.tables["scene"] = content
    with pytest.raises(SystemExit, match=r"scene\.json: "):
        tables.run()


def test_unknown_cameras_and_missing_tables(tables):
    tables.scene("s", straight)
    with pytest.raises(SystemExit, match=r"no channel 'CAM_TOP' .*; it has CAM_BACK, CAM_FRONT, LIDAR_TOP"):
        tables.run("--camera", "CAM_TOP")
    assert tables.run("--camera", "CAM_BACK") == 1
    del tables.tables["ego_pose"]
    (tables.root / "v1.0-mini/ego_pose.json").unlink()
    with pytest.raises(SystemExit) as stop:
        tables.run()
    assert stop.value.code == 2


def test_limit_and_same_bytes(tables):
    tables.scene("a", straight)
    tables.scene("b", left_bend)
    drawn = tables.run("--limit", 4, "--seed", 2)
    first = tables.out.read_bytes()
    assert len(drawn) == 4
    tables.run("--limit", 4, "--seed", 2)
    assert tables.out.read_bytes() == first


def test_more_missing_images_or_bad_rows_than_a_few_per_cent_are_an_error(tables, capsys):
    tables.scene("s", straight)
    for path in sorted(tables.root.rglob("*.jpg"))[:3]:
        path.unlink()
    assert tables.run("--max_skipped", "0.03") == 1
    assert "key frames cannot be used" in capsys.readouterr().err
    for row in tables.tables["ego_pose"]:
        row["rotation"] = None
    assert tables.run("--max_skipped", "0.03") == 1
    assert "cannot be used" in capsys.readouterr().err
