"""Files of published data sets in the making, for the tests of the converter."""

import json

from PIL import Image

from data_prep import published
from vlrl.data.sample_files import read_samples
from vlrl.rewards import load_reward
from vlrl.tasks import TASKS

DETECT = (
    "Detect all objects belonging to the category '{}' in the image, and provide the bounding boxes (between 0 and 1000, "
    "integer) and confidence (between 0 and 1, with two decimal places).\nIf no object belonging to the category '{}' in the "
    "image, return 'No Objects'.\nOutput the thinking process in <think> </think> and final answer in <answer> </answer> "
    "tags.The output answer format should be as follows:\n<think> ... </think> <answer>[{{'Position': [x1, y1, x2, y2], "
    "'Confidence': number}}, ...]</answer>\nPlease strictly follow the format."
)


def assert_oracle_is_right(sample):
    """Its task accepts the sample, and every reward of its own that looks at nothing else gives the oracle full marks."""
    task = TASKS[sample.task]
    assert task.check(sample) is None
    for name in sample.meta.get("rewards") or task.rewards(sample):
        reward = load_reward(name)
        if reward.needs <= {"tags"}:
            assert reward.function(task.oracle(sample), sample).value == reward.high, name


class Published:
    """Files of a published data set in the making; images are 200 x 100."""

    def __init__(self, root):
        self.root, self.out = root, root / "out" / "samples.jsonl"
        for name in ("a.jpg", "b.jpg"):
            self.image(name)

    def image(self, name, size=(200, 100)):
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 120, 150)).save(self.root / name)

    def write(self, rows, name):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            path.write_text(json.dumps(rows))
        else:
            path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    def convert(self, layout, *options):
        code = published.main(
            ["--format", layout, "--out", str(self.out), "--overwrite", "--max_skipped", "1", *map(str, options)]
        )
        return read_samples(self.out) if code == 0 else code

    def run(self, layout, rows, *options, name="rows.jsonl"):
        samples = self.convert(layout, "--data", self.write(rows, name), *options)
        for sample in samples if isinstance(samples, list) else []:
            assert_oracle_is_right(sample)
        return samples

    def one(self, layout, row, *options):
        (sample,) = self.run(layout, [row], *options, "--strict")
        return sample


def turns(question, answer, image="a.jpg", **more):
    """A row of VLM-R1's JSONL."""
    conversations = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": 1, "image": image, "conversations": conversations} | more


def detect(solution, category="dog", image="a.jpg"):
    return {"image": image, "problem": DETECT.format(category, category), "solution": solution}
