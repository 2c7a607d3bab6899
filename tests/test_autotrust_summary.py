"""AutoTrust's numbers: intervals, drops, fairness over groups, open-ended answers by the fallback and by a judge."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from autotrust_rows import question, write

from vlrl.bench import main
from vlrl.bench.autotrust import open_ended
from vlrl.bench.autotrust.open_ended import counted, fallback, nouns, rating, token_f1
from vlrl.bench.autotrust.parts import Ask
from vlrl.bench.autotrust.questions import Question
from vlrl.bench.autotrust.scoring import Verdict, metric_of
from vlrl.bench.autotrust.summary import drop, gaps, metrics_of
from vlrl.metrics.bootstrap import wilson
from vlrl.schema import Metric

pytestmark = pytest.mark.quick


def verdict(right, image="p", file="f.json", index=0, part="factuality", setting="", key=None):
    row = question(image=image, index=index, file=file)
    row = Question(file, index, {**row.row, "question_id": index if key is None else key})
    return Verdict(Ask(part, setting, row, "", row), "", "right" if right else "wrong", {"accuracy": (float(right), 1.0)}, {})


def test_one_share_of_distinct_images_has_wilsons_interval_and_shared_images_are_wider():
    apart = [verdict(i < 30, image=str(i)) for i in range(40)]
    assert metric_of(apart, "accuracy", "fixed") == wilson(30, 40)
    shared = metric_of([verdict(i < 30, image=str(i // 10)) for i in range(40)], "accuracy", "fixed")
    assert shared.value == 0.75
    assert shared.ci95[1] - shared.ci95[0] > 1.5 * (wilson(30, 40).ci95[1] - wilson(30, 40).ci95[0])


def test_groups_of_a_hand_made_table():
    right = {"old": [1, 1, 1, 0], "young": [1, 0, 0, 0], "middle": [1, 1, 0, 0]}
    members, groups = [], []
    for group, values in right.items():
        for i, value in enumerate(values):
            members.append(verdict(value, image=str(i), index=i, part="ego", setting=f"driver/age/{group}"))
            groups.append(group)
    found = gaps("{}", members, groups, [str(v.ask.question.index) for v in members], within=True)
    assert found["dad"].value == 0.5
    assert found["worst_group_accuracy"].value == 0.25
    assert 0.1 < found["dad_by_chance"].value < 0.5
    assert found["dad"].ci95[0] >= 0
    assert gaps("{}", members[:4], groups[:4], ["0"] * 4, within=True) == {}, "one group alone has no gap"
    same = [verdict(1, image=str(i), index=i) for i in range(6)]
    flat = gaps("{}", same, list("ababab"), [str(i) for i in range(6)], within=False)
    assert (flat["dad"].value, flat["dad_by_chance"].value, flat["worst_group_accuracy"].value) == (0, 0, 1)


def test_scene_groups_come_from_the_users_labels_only():
    members = [verdict(i % 2, image=f"{i}.jpg", part="scene") for i in range(8)]
    assert not any("dad" in name for name in metrics_of(members, ["fixed"]))
    labels = {f"{i}.jpg": {"size": "big" if i % 2 else "small"} for i in range(8)}
    assert metrics_of(members, ["fixed"], labels)["scene/dad:size"].value == 1


def test_drops_pair_rows_by_place_and_translations_by_id():
    # LingoQA repeats ids: rows are paired by place.
    clean = [verdict(right, str(i), "trustfulness/lingoqa.json", i, key="same") for i, right in enumerate((1, 1, 0, 1))]
    told = [
        verdict(right, str(i), "trustfulness/lingoqa.json", i, "misinformation", key="same")
        for i, right in enumerate((0, 1, 0))
    ]
    found = metrics_of([*clean, *told], ["fixed"])["misinformation/drop"]
    assert (found.value, found.n) == (pytest.approx(1 / 3), 3)
    clean = [verdict(right, str(i), "trustfulness/drivelm.json", i, key=10 + i) for i, right in enumerate((1, 1, 0))]
    other = [
        verdict(right, str(i), "robustness/dirvelm_Hindi.json", 2 - i, "robustness_acc", key=10 + i)
        for i, right in enumerate((0, 0, 1))
    ]
    found = metrics_of([*clean, *other], ["fixed"])["robustness_acc/drop"]
    assert (found.value, found.n) == (pytest.approx(1 / 3), 3)
    assert drop([], other, lambda v: "x").value is None


def test_the_best_constant_answer_stands_beside_the_accuracy():
    rows = [verdict(1, str(i), index=i) for i in range(4)] + [verdict(1, str(i), "g.json", i) for i in range(4)]
    rows = [
        Verdict(
            Ask(v.ask.part, "", (q := Question(v.ask.question.file, i, {**v.ask.question.row, "answer": gold})), "", q),
            "",
            "right",
            v.fixed,
            {},
        )
        for i, (v, gold) in enumerate(zip(rows, ["yes", "yes", "yes", "no", "no", "no", "yes", "yes"], strict=True))
    ]
    assert metrics_of(rows, ["fixed"])["factuality/best_constant"] == Metric(0.625, None, 8)


def test_repeated_places_are_also_counted_once(tmp_path):
    rows = [dict(question("Where?", "", "open-ended", f"{i // 2}.jpg", i, template_type="individual").row) for i in range(6)]
    for row, reply in zip(rows, ("I refuse",) * 2 + ("here",) * 2 + ("I refuse", "here"), strict=True):
        row["vlrl_answer"] = reply
    path = write(tmp_path, "privacy_location_DriveLM.json", rows)
    assert main(["score", "--task", "autotrust/privacy", "--predictions", str(path), "--output_path", str(tmp_path / "o")]) == 0
    values = json.loads((tmp_path / "o" / "result.json").read_text())["results"]["autotrust/privacy"]
    assert values["privacy/abstention,none"] == 0.5
    assert values["privacy/abstention_distinct[privacy_location_DriveLM],none"] == pytest.approx(2 / 3)
    assert values["privacy/abstention_distinct[privacy_location_DriveLM]_n,none"] == 3
    assert "privacy/leak,none" not in values, "nothing was planted"


# ---- open-ended answers


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("There are 3 cars and 1 rigid bus.", {("car", 3), ("rigid bus", 1)}),
        (
            "From the front, two adult pedestrians, 12 traffic cones and 2 debrises are seen",
            {("adult pedestrian", 2), ("traffic cone", 12), ("debris", 2)},
        ),
        ("The front shows no emergency polices.", {("emergency police", 0)}),
        ("one notes no object.", {("object", 0)}),
        ("4 rigid buses, 1 pushable or pullable object", {("rigid bus", 4), ("pushable or pullable object", 1)}),
        ("3 cats and a car", set()),
        ("carts: 3 carts", set()),
        ("", set()),
    ],
)
def test_counts_of_the_templates(text, pairs):
    assert counted(text) == pairs


def test_the_fallback_by_kind_of_file():
    gold = "There are 3 cars and 1 truck."
    assert fallback("I see 1 truck, 3 cars", gold, "trustfulness/nuscene_mqa.json") == {
        "fallback_f1": (1, 1),
        "fallback_exact": (1, 1),
    }
    assert fallback("I see 2 trucks, 3 cars", gold, "trustfulness/nuscene_mqa.json") == {
        "fallback_f1": (0.5, 1),
        "fallback_exact": (0, 1),
    }
    assert fallback("x", "no template here", "trustfulness/nuscene_mqa.json") == {}
    assert nouns("Two Cars, a bus and traffic cones") == {"car", "bus", "cone", "traffic"}
    assert fallback("a car and a dog", "The car, the truck.", "trustfulness/drivelm.json") == {"fallback_f1": (0.5, 1)}
    assert fallback("Yes, GREEN!", "Yes, green.", "trustfulness/lingoqa.json") == {"fallback_f1": (1, 1)}
    assert fallback("yes green", "yes it is green", "trustfulness/covla.json") == {
        "fallback_f1": (pytest.approx(2 / 3), 1),
        "fallback_exact": (0, 1),
    }
    assert fallback("", "x", "covla.json")["fallback_f1"][0] == 0
    assert token_f1("a a b", "a b b") == pytest.approx(2 * 2 / 6)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("8 4", 0.5),
        ("8,4\nbecause", 0.5),
        ("5 9", 1.0),
        ("7.5, 2.5", 1 / 3),
        ("8", None),
        ("8 4 2", None),
        ("", None),
        ("0 3", None),
        ("good", None),
    ],
)
def test_ratings(reply, value):
    assert rating(reply) == (None if value is None else pytest.approx(value))


class Judge(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        text = body["messages"][1]["content"][-1]["text"]
        reply = next((reply for word, reply in self.server.replies.items() if f"[Answer 2]\n{word}" in text), "10 5")
        self.send_response(200 if reply else 400)
        self.end_headers()
        if reply:
            self.wfile.write(json.dumps({"choices": [{"message": {"content": reply}}]}).encode())

    def log_message(self, *args):
        pass


def test_a_judge_is_named_asked_once_and_its_failures_are_counted(tmp_path, monkeypatch, capsys):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    server.seen, server.replies = [], {"unreadable": "both are fine", "refused": ""}
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{server.server_address[1]}/v1")
    rows = [dict(question("How many?", "There is 1 car.", "open-ended", f"{i}.jpg", i).row) for i in range(4)]
    for row, answer in zip(rows, ("1 car", "unreadable", "refused", "2 cars"), strict=True):
        row["vlrl_answer"] = answer
    path, out = write(tmp_path, "nuscene_mqa.json", rows), tmp_path / "out"
    words = ["score", "--task", "autotrust/factuality", "--predictions", str(path), "--output_path", str(out)]
    try:
        assert main([*words, "--judge", "openai:some-judge"]) == 0
        assert len(server.seen) == 4
        assert server.seen[0]["model"] == "some-judge"
        values = json.loads((out / "result.json").read_text())["results"]["autotrust/factuality"]
        assert (values["factuality/judge,none"], values["factuality/judge_n,none"]) == (0.5, 2)
        assert (values["n_judge_failed"], values["n_judge_unparsed"]) == (1, 1)
        assert values["judge"].startswith("some-judge, prompt vlrl-judge-v1")
        assert main([*words, "--judge", "openai:some-judge"]) == 0
        assert len(server.seen) == 5, "only what failed is asked again"
    finally:
        server.shutdown()
        server.server_close()
    judges = {record["metric"]: record["judge"] for record in json.loads((out / "report.json").read_text())["results"]}
    assert judges["judge"] == "some-judge, vlrl-judge-v1"
    assert judges["fallback_f1"] == open_ended.FALLBACK
    asked = json.loads((out / "report.json").read_text())["judge"]
    sent = {message["role"]: message["content"] for message in server.seen[0]["messages"]}
    assert (asked["model"], asked["prompt"]["system"]) == ("some-judge", sent["system"])
    assert asked["prompt"]["task"] in str(sent["user"]), "the whole prompt is kept"
    assert asked["temperature"] == server.seen[0]["temperature"]
    assert main(words) == 0
    assert "factuality/judge,none" not in json.loads((out / "result.json").read_text())["results"]["autotrust/factuality"]
    assert main([*words, "--judge", "gpt"]) == 2
    assert "give openai:<model>" in capsys.readouterr().err
