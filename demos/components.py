"""Gradio's components with the checks that the page relies on, on the server, whoever calls it.

Gradio names a component's file for the browser after its class, or after the class above where `is_template` is set.
"""

from __future__ import annotations

import io
from abc import ABCMeta
from typing import Any

import gradio as gr
from fastapi import HTTPException
from gradio.component_meta import ComponentMeta
from gradio.components.base import server
from gradio.components.image_editor import EditorData, EditorDataBlobs

from demos import page
from vlrl.data.images import ImageError, opened_image
from vlrl.data.markup import escaped, readable

NOT_LISTED = "this is not in the list; reload the page for a new one"
MAX_TEXT = 20_000
"""Characters of a completion, a question or a sample that is typed: grading hundreds of boxes takes well below a second."""
MAX_DRAWING_PX = 4_000_000
"""Pixels of a drawing; the sheet of the page has a twentieth."""
MAX_DRAWINGS = 32
"""Drawings in memory that were sent and not yet used."""


class OwnMeta(ComponentMeta):
    """Makes a class as Python does. Gradio would also write a `.pyi` file beside this one, which type checkers would read, and
    keep books of a component's own events and constructor; none of these has any."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> Any:
        return ABCMeta.__new__(cls, name, bases, attributes)


class Html(gr.HTML, metaclass=OwnMeta):
    """HTML whose value is `Markup`; any other text is escaped."""

    is_template = True

    def postprocess(self, value: str | None) -> str | None:
        return None if value is None else str(escaped(value))


class Choice(gr.Dropdown, metaclass=OwnMeta):
    """A list of which one entry is chosen. Another value is refused without naming the entries."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        if not isinstance(payload, str) or payload not in [value for _, value in self.choices]:
            raise page.error(NOT_LISTED)
        return payload


class Name(gr.Dropdown, metaclass=OwnMeta):
    """A list that grows while the page is open: whoever uses the name looks it up."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        if payload is not None and (not isinstance(payload, str) or len(payload) > 500):
            raise page.error(NOT_LISTED)
        return payload


class Text(gr.Textbox, metaclass=OwnMeta):
    """A text of bounded length."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        return _bounded(payload)

    def postprocess(self, value: str | None) -> str | None:
        return None if value is None else readable(value)


def _bounded(payload: Any) -> str | None:
    if payload is not None and not isinstance(payload, str):
        raise page.error("a text is needed")
    if payload is not None and len(payload) > MAX_TEXT:
        raise page.error(f"the text has {len(payload):,} characters; {MAX_TEXT:,} are the most")
    return payload


class Number(gr.Number, metaclass=OwnMeta):
    """A whole number from 0 to 1,000,000,000."""

    is_template = True

    def preprocess(self, payload: Any) -> int | None:
        if payload is None:
            return None
        if isinstance(payload, bool) or not isinstance(payload, int | float) or not 0 <= payload <= 10**9:
            raise page.error("give a whole number from 0 to 1,000,000,000")
        return int(payload)


class Sheet(gr.ImageEditor, metaclass=OwnMeta):
    """A sheet to draw on. A drawing is what its layers show together (`composite`), measured before it is decoded; what else a
    browser sends of it is dropped, and few are kept that nobody fetches."""

    is_template = True

    def preprocess(self, payload: EditorData | None) -> Any:
        if payload is None:
            return None
        sent = self.blob_storage.pop(payload.id, None) if payload.id else payload
        drawing = sent and sent.composite
        if not drawing:
            return {"composite": None}
        source = io.BytesIO(drawing) if isinstance(drawing, bytes) else drawing.path
        try:
            with opened_image(source, "the drawing") as image:
                if image.width * image.height > MAX_DRAWING_PX:
                    raise page.error(f"the drawing has {image.width}x{image.height} pixels; {MAX_DRAWING_PX:,} are the most")
                return {"composite": image.convert("RGBA")}
        except ImageError as error:
            raise page.error("the drawing cannot be read; draw it again") from error

    @server  # type: ignore[untyped-decorator]
    def accept_blobs(self, data: Any) -> None:
        """What a browser sends of a drawing before it is used."""
        try:
            kind, key, drawing = data.data["type"], data.data["id"], data.files[0][1]
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            raise HTTPException(400, "not a drawing") from error
        if kind != "composite" or not isinstance(key, str) or not isinstance(drawing, bytes):
            return
        while len(self.blob_storage) >= MAX_DRAWINGS:
            self.blob_storage.pop(next(iter(self.blob_storage)), None)
        self.blob_storage[key[:100]] = EditorDataBlobs(background=None, layers=[], composite=drawing)
