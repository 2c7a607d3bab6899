"""What the tab "Try" does: the sample on the page, the model's answer to its question, and how that scores."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from demos import page, scoring
from demos.answering import Models, open_drawing, open_upload
from demos.model_list import Refused
from demos.page_tasks import PageTasks
from vlrl.answers.kind import BOXES, answer_kinds
from vlrl.data.images import ImageError
from vlrl.data.markup import Markup
from vlrl.schema import Sample, TaskError


class Asking:
    """Questions of the page to a model. Each method returns or yields what the page shows then."""

    def __init__(self, models: Models, tasks: PageTasks) -> None:
        self.models, self.tasks = models, tasks

    def show_example(self, task: str, number: float | None) -> Any:
        chosen = self.tasks.example(task, max(0, int(number or 0)))
        try:
            image = scoring.draw_image(self.tasks[task], chosen, None)
        except ImageError as error:
            raise _unreadable(error) from error
        hint = "start the page with --data samples.jsonl, or upload an image and ask a question"
        shown = self.tasks.has_examples(task)
        about = "" if shown else page.box("no examples", f"{task} draws none of its own; {hint}")
        return chosen, None, chosen.question, image, about, ""

    def take_upload(self, path: str | None, task: str) -> Any:
        try:
            return self._with_own(open_upload(path or ""), task)
        except Refused as error:
            raise page.error(error) from error

    def take_drawing(self, drawing: dict[str, Any] | None, task: str) -> Any:
        try:
            return self._with_own(open_drawing(drawing), task)
        except Refused as error:
            raise page.error(error) from error

    def _with_own(self, opened: Image.Image, task: str) -> Any:
        chosen = Sample("upload", task, "", None, ("upload",))
        return chosen, opened, scoring.draw_image(self.tasks[task], chosen, None, opened), "", ""

    def answer_it(
        self, task: str, model: str, chosen: Sample | None, opened: Image.Image | None, question: str | None, n: float,
        temperature: float,
    ) -> Iterator[Any]:  # fmt: skip
        """Image, answer and scores, again and again until the answer is whole; of several answers, once."""
        try:
            chosen = self.asked(chosen, task, question)
            yield None, page.box("answer", "", "generating …"), ""
            chosen = self.models.prepare_sample(model, chosen, opened)
            if n > 1:
                made: list[Sequence[str]] = []
                for some in self.models.group(model, chosen, int(n), float(temperature), opened):
                    made.append(some)
                    yield None, page.box("answer", "", "generating …"), ""
                texts = made[-1]
                yield self._image(chosen, texts[0], opened), "", self._group(chosen, texts)
                return
            text = ""
            for text in self.models.stream(model, chosen, opened):
                yield None, _answer(text, chosen), ""
            scored = self.scores(chosen, [text])[0]
            yield self._image(chosen, text, opened), _answer(text, chosen), page.rewards(scored)
        except ImageError as error:
            raise _unreadable(error) from error
        except (Refused, TaskError) as error:
            raise page.error(error) from error

    def _image(self, sample: Sample, text: str, opened: Image.Image | None) -> Image.Image | None:
        return scoring.draw_image(self.tasks[sample.task], sample, text, opened)

    def asked(self, chosen: Sample | None, task: str, question: str | None) -> Sample:
        """The sample with the question on the page (in detection: the classes to find, separated by commas). The answer to
        another question is not known."""
        if chosen is None:
            chosen = self.tasks.example(task, 0)
        question = (question or "").strip()[:2000]
        if not question:
            raise Refused("the question is empty")
        if question == chosen.question:
            return chosen
        meta = {**chosen.meta}
        if BOXES in answer_kinds(self.tasks.example(task, 0)):
            meta["categories"] = [name for part in question.split(",") if (name := part.strip())] or [question]
        return dataclasses.replace(chosen, question=question, answer=None, choices=None, meta=meta)

    def scores(self, sample: Sample, texts: Sequence[str]) -> list[list[scoring.Scored]]:
        return [[] for _ in texts] if sample.answer is None else scoring.score(sample, texts, self.tasks.tasks)

    def _group(self, sample: Sample, texts: Sequence[str]) -> Markup:
        scored = self.scores(sample, texts)
        totals = [scoring.total(one) for one in scored]
        rows = []
        for i, (text, one, advantage) in enumerate(zip(texts, scored, scoring.advantages(totals), strict=True), start=1):
            values = ", ".join(f"{s.reward} {s.value:.3g}" for s in one if s.value is not None) or "–"
            rows.append([str(i), page.signed(advantage), values, text])
        return page.table(["", "advantage", "rewards", "answer"], rows)


def _answer(text: str, sample: Sample) -> Markup:
    thought, answer = scoring.parts(text, sample)
    shown = page.box("thought", thought, "none yet") + page.box("answer", answer, "none yet")
    return shown if thought or answer else page.box("completion", text, "nothing yet")


def _unreadable(error: ImageError) -> Exception:
    """The message, which may name a folder of this machine, goes to the console."""
    print(error, file=sys.stderr)
    return page.error("the image of this sample cannot be read; the console of the page says why")
