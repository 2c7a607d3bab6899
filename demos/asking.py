"""What the tab "Try" does: the sample on the page, the model's answer to its question, and how that scores."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import gradio as gr
from PIL import Image

from demos import completions, figures, matching, page, scoring
from demos.answering import Models, open_drawing, open_upload
from demos.model_list import Refused
from demos.page_tasks import PageTasks
from demos.servers import Server
from vlrl.answers.kind import BOX, BOXES, PLAN, answer_kinds
from vlrl.data.images import ImageError
from vlrl.data.markup import Markup, joined, markup
from vlrl.schema import Sample, TaskError

N_EXAMPLES = 8
"""In the gallery of a task."""
WORLD = (
    "A bundled model was trained on drawn scenes alone: squares, circles and triangles in six colours, roads, playing cards."
    " What it says of any other image means nothing. For photographs choose the model of a run of yours, or a server below."
)
UPLOAD_QUESTIONS = {BOXES: "person, car, animal", BOX: "the largest object", PLAN: "plan the next three seconds"}
DRAWN_QUESTIONS = {**UPLOAD_QUESTIONS, BOXES: "red square, blue circle, green triangle"}
"""What an uploaded image is asked about first, by the kind of answer; the second for models of drawn scenes."""
OTHER_QUESTION = "What does the picture show?"
Shown = tuple[Any, Any, Any]
"""Image, answer and scores, as the page shows them."""


class Asking:
    """Questions of the page to a model. Each method returns or yields what the page shows then."""

    def __init__(self, models: Models, tasks: PageTasks) -> None:
        self.models, self.tasks = models, tasks
        self._galleries: dict[str, Markup] = {}

    def gallery(self, task: str) -> Markup:
        """The first examples of a task, small, with their questions."""
        if task not in self._galleries:
            n = min(N_EXAMPLES, len(self.tasks.samples.get(task, ())) or N_EXAMPLES) if self.tasks.has_examples(task) else 0
            self._galleries[task] = figures.gallery([self._entry(task, i) for i in range(n)])
        return self._galleries[task]

    def _entry(self, task: str, number: int) -> tuple[Image.Image | None, str]:
        sample = self.tasks.example(task, number)
        try:
            images, on = scoring.shown_images(sample)
        except ImageError:  # said when the example is opened
            images, on = [], 0
        return (images[on] if images else None), f"{number}: {sample.question}"[:200]

    def show_task(self, task: str) -> Any:
        """The gallery of a task, and its first example."""
        return self.gallery(task), 0, *self.show_example(task, 0)

    def show_example(self, task: str, number: float | None) -> Any:
        chosen = self.tasks.example(task, max(0, int(number or 0)))
        try:
            image = self._figure(chosen, None)
        except ImageError as error:
            return chosen, None, chosen.question, "", _unreadable(error), ""
        hint = "start the page with --data samples.jsonl, or upload an image and ask a question"
        shown = self.tasks.has_examples(task)
        about = _invitation() if shown else page.box("no examples", f"{task} draws none of its own; {hint}")
        return chosen, None, chosen.question, image, about, ""

    def take_upload(self, path: str | None, task: str, model: str | None) -> Any:
        try:
            return self._with_own(open_upload(path or ""), task, model, "upload")
        except Refused as error:
            return *(gr.skip(),) * 4, page.problem("the image is not taken", error), ""

    def take_drawing(self, drawing: dict[str, Any] | None, task: str, model: str | None) -> Any:
        try:
            return self._with_own(open_drawing(drawing), task, model, "drawing")
        except Refused as error:
            return *(gr.skip(),) * 4, page.problem("the drawing is not taken", error), ""

    def _with_own(self, opened: Image.Image, task: str, model: str | None, source: str) -> Any:
        """An image of the visitor's, with a question that fits the task. Its true answer is not known."""
        kinds = answer_kinds(self.tasks.example(task, 0))
        questions = DRAWN_QUESTIONS if source == "drawing" or self.models.is_bundled(model) else UPLOAD_QUESTIONS
        question = next((words for kind, words in questions.items() if kind in kinds), OTHER_QUESTION)
        chosen = self.asked(Sample("upload", task, "", None, ("upload",)), task, question)
        size = f"{opened.width} x {opened.height} pixels"
        said = page.box(f"your {source}, {size}", "The question is a suggestion: change it, then press Ask.")
        return chosen, opened, question, self._figure(chosen, None, opened), said + self._world(model, opened), ""

    def _world(self, model: str | None, opened: Image.Image | None) -> Markup:
        """An honest word about what a bundled model can know of an image from outside."""
        return page.box("mind", WORLD) if opened is not None and self.models.is_bundled(model) else markup("")

    def answer_it(
        self, task: str, model: str, chosen: Sample | None, opened: Image.Image | None, question: str | None, n: float,
        temperature: float,
    ) -> Iterator[Shown]:  # fmt: skip
        """Image, answer and scores, again and again until the answer is whole; of several answers, once."""
        asked = partial(self._asked_model, model, n=int(n), temperature=float(temperature))
        yield from self._answered(task, chosen, opened, question, asked, self._world(model, opened), model)

    def answer_from_server(
        self, task: str, base: str | None, name: str | None, key: str | None, coords: str, chosen: Sample | None,
        opened: Image.Image | None, question: str | None, n: float, temperature: float,
    ) -> Iterator[Shown]:  # fmt: skip
        """As `answer_it`, by an OpenAI-compatible server."""
        server = Server(base or "", name or "", key or "", coords, self.tasks.tasks)
        asked = partial(server.answers, n=int(n), temperature=float(temperature))
        yield from self._answered(task, chosen, opened, question, asked, markup(""), server.shown)

    def _asked_model(
        self, model: str, sample: Sample, opened: Image.Image | None, *, n: int, temperature: float
    ) -> Iterator[tuple[Sample, Sequence[str]]]:
        """The sample as the model sees it and its answers so far; none while several are being made."""
        sample = self.models.prepare_sample(model, sample, opened)
        if n > 1:
            for some in self.models.group(model, sample, n, temperature, opened):
                yield sample, some
        else:
            for text in self.models.stream(model, sample, opened):
                yield sample, [text]

    def _answered(
        self, task: str, chosen: Sample | None, opened: Image.Image | None, question: str | None, asked: Any, note: Markup,
        model: str,
    ) -> Iterator[Shown]:  # fmt: skip
        try:
            yield gr.skip(), page.box(f"asking {model}", "", "…"), ""
            last: tuple[Sample, Sequence[str]] | None = None
            for last in asked(self.asked(chosen, task, question), opened):
                yield gr.skip(), _so_far(model, *last), ""
            if last is not None:
                yield self._shown(*last, opened, note)
        except ImageError as error:
            yield gr.skip(), _unreadable(error), ""
        except (Refused, TaskError) as error:
            yield gr.skip(), page.problem("no answer", error), ""

    def _shown(self, sample: Sample, texts: Sequence[str], opened: Image.Image | None, note: Markup) -> Shown:
        scored = self.scores(sample, texts)
        if len(texts) > 1:
            drawn, listed = completions.group(self.tasks[sample.task], sample, texts, scored)
            return self._marked(sample, drawn, opened), note, listed
        compared = matching.compare(self.tasks[sample.task], sample, texts[0])
        about = note + completions.said(texts[0], sample, compared)
        tables = [page.rewards(scored[0]), *([matching.table(compared)] if compared else [])]
        return self._figure(sample, texts[0], opened), about, joined(tables)

    def _figure(self, sample: Sample, text: str | None, opened: Image.Image | None = None) -> Markup:
        return completions.figure(self.tasks[sample.task], sample, text, opened)

    def _marked(self, sample: Sample, drawn: completions.Drawn, opened: Image.Image | None) -> Markup:
        images, on = scoring.shown_images(sample, opened)
        return figures.figure(images, drawn.alt, drawn.marks, on, drawn.legend)

    def asked(self, chosen: Sample | None, task: str, question: str | None) -> Sample:
        """The sample with the question on the page (in detection: the classes to find, separated by commas). The answer to
        another question is not known."""
        if chosen is None or chosen.task != task:
            chosen = self.tasks.example(task, 0)
        question = (question or "").strip()[:2000]
        if not question:
            raise Refused("the question is empty; say what to find or to answer")
        if question == chosen.question:
            return chosen
        meta = {**chosen.meta}
        if BOXES in answer_kinds(self.tasks.example(task, 0)):
            meta["categories"] = [name for part in question.split(",") if (name := part.strip())] or [question]
        return dataclasses.replace(chosen, question=question, answer=None, choices=None, meta=meta)

    def scores(self, sample: Sample, texts: Sequence[str]) -> list[list[scoring.Scored]]:
        return [[] for _ in texts] if sample.answer is None else scoring.score(sample, texts, self.tasks.tasks)


def _invitation() -> Markup:
    return page.box("next", "", "Press Ask, or choose an example above, which asks at once.")


def _so_far(model: str, sample: Sample, texts: Sequence[str]) -> Markup:
    """What is written already."""
    if len(texts) != 1 or not texts[0]:
        return page.box(f"asking {model}", "", "…")
    thought, answer = scoring.parts(texts[0], sample)
    return page.box("thought", thought, "none yet") + page.box("answer", answer or texts[0], "none yet")


def _unreadable(error: ImageError) -> Markup:
    """The message, which may name a folder of this machine, goes to the console."""
    print(error, file=sys.stderr)
    return page.problem("no image", "the image of this sample cannot be read; the console of the page says why")
