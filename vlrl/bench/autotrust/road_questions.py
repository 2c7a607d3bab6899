"""The closed questions of the built-in fixture as a task to train on, and as a larger question file to measure on.

    python vlrl/train.py --task vlrl/bench/autotrust/road_questions.py --stage sft --sft_steps 300 --output_dir runs/roads
    python -m vlrl.bench.autotrust.road_questions --n_roads 100 --out roads.json

Prompts are those of AutoTrust's factuality with our sentences; answers are a letter, Yes or No. Training and the file share no
road, as training draws its own split. Scores of a model trained here are not comparable with AutoTrust results.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from vlrl.bench.autotrust import wording
from vlrl.bench.autotrust.fixture import FIXTURE_SPLIT, closed_rows
from vlrl.bench.autotrust.questions import Question
from vlrl.schema import Prediction, Result, Sample, Task

N_KINDS = 3
ROADS_FILE = "trustfulness/roads.json"


def road_question(seed: int, split: str, index: int) -> Sample:
    """Question `index`: the three kinds in turn, each on its own road, so that no image is used three times."""
    rows, _ = closed_rows(seed, index, f"{FIXTURE_SPLIT}-{split}")
    row = rows[index % N_KINDS]
    return Sample(
        id=f"synthetic-road_questions-{split}-{seed}-{index}",
        task="qa",
        images=(row["image_path"],),
        question=wording.closed(Question(ROADS_FILE, index, row), wording.WORDING),
        answer=row["answer"],
        meta={"dataset": "synthetic", "split": split, "answer_format": "none"},
    )


def accuracy(sample: Sample, prediction: Prediction) -> Result:
    """1 where the completion is the reference answer, word for word."""
    answer = prediction.completion.strip()
    is_read = answer in ("A", "B", "C", "D", "Yes", "No")
    return Result({"accuracy": (float(answer == sample.answer), 1.0)}, answer, is_read)


TASK = Task(
    name="qa",
    prompt=lambda sample: sample.question,
    oracle=lambda sample: str(sample.answer),
    rewards=("exact_match",),
    metric=accuracy,
    synthetic=road_question,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the question file of `--n_roads` roads to `--out`."""
    parser = argparse.ArgumentParser(description="Write the fixture's closed questions on more roads, in the released format.")
    parser.add_argument("--n_roads", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    rows = [row for index in range(args.n_roads) for row in closed_rows(args.seed, index)[0]]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(rows)} questions on {args.n_roads} drawn roads, the project's own: {args.out}")


if __name__ == "__main__":
    main()
