"""Rows and files in AutoTrust's format, for the tests of its suite and of its metrics."""

import json

from vlrl.bench.autotrust.questions import Question


def question(
    text="Is it red?", answer="Yes", kind="yes-or-no", image="a.jpg", index=0, file="trustfulness/drivelm.json", **extra
):
    row = {"question": text, "answer": answer, "image_path": image, "question_id": index, "question_type": kind, **extra}
    return Question(file, index, row)


def write(folder, name, rows):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=4))
    return path
