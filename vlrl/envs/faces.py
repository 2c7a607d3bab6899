"""Card faces and lines of text as pixels, drawn once each with Pillow in the DejaVu fonts that ship inside matplotlib."""

from __future__ import annotations

import importlib.util
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlrl.envs.cards.deck import RANKS, SUITS, Card

Colour = tuple[int, int, int]
TABLE: Colour = (0x35, 0x65, 0x4D)
WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
GLYPHS = {"H": "♥", "S": "♠", "D": "♦", "C": "♣"}
RED_SUIT: Colour = (196, 22, 28)
BORDER: Colour = (150, 150, 150)
BACK: tuple[Colour, Colour] = ((32, 60, 140), (225, 230, 245))
FRENCH_WIDTH_PX = 67
"""The width the proportions below are given for."""


@cache
def font(size_px: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans. Raises FileNotFoundError without matplotlib's data."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise FileNotFoundError("card faces need the DejaVu fonts inside matplotlib; pip install matplotlib")
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / name), size_px)


@lru_cache(maxsize=1024)
def line(text: str, size_px: int, colour: Colour, background: Colour, bold: bool = False) -> np.ndarray:
    """`[height, width, 3]` uint8: one line of text as Pillow draws it at its upper left corner."""
    face = font(size_px, bold)
    ascent, descent = face.getmetrics()
    image = Image.new("RGB", (max(1, round(face.getlength(text))), ascent + descent), background)
    ImageDraw.Draw(image).text((0, 0), text, colour, face)
    return _frozen(image)


def advance(text: str, size_px: int) -> float:
    """How far the pen moves for `text`, in pixels."""
    return _advance(text, size_px)


@cache
def _advance(text: str, size_px: int) -> float:
    return float(font(size_px).getlength(text))


def _frozen(image: Image.Image) -> np.ndarray:
    pixels = np.array(image)
    pixels.flags.writeable = False
    return pixels


@cache
def face(code: str, width_px: int, height_px: int) -> np.ndarray:
    """`[height, width, 3]` uint8 of the card with this code (suit, then rank). Raises ValueError."""
    if len(code) != 2 or code[0] not in SUITS or code[1] not in RANKS:
        raise ValueError(f"{code!r} is no card; a code is one of {SUITS} and then one of {RANKS}")
    card, scale = Card(code[0], code[1]), width_px / FRENCH_WIDTH_PX
    colour = RED_SUIT if card.suit in "HD" else BLACK
    image = _blank(width_px, height_px, WHITE)
    half = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(half)
    # Capitals of DejaVu are 0.73 of the font size high: 18 px on the smallest card.
    rank_font, x = font(round(26 * scale), bold=True), 11 * scale if card.rank != "T" else 18 * scale
    draw.text((x + 2 * scale, 23 * scale), card.face, colour, rank_font, anchor="ms")
    draw.text((12 * scale, 38 * scale), GLYPHS[card.suit], colour, font(round(18 * scale)), anchor="ms")
    image.paste(half, (0, 0), half)
    turned = half.rotate(180)
    image.paste(turned, (0, 0), turned)
    centre = (width_px / 2, height_px / 2)
    ImageDraw.Draw(image).text(centre, GLYPHS[card.suit], colour, font(round(34 * scale)), anchor="mm")
    return _frozen(image)


@cache
def back(width_px: int, height_px: int) -> np.ndarray:
    """`[height, width, 3]` uint8: a card seen from behind, in two colours."""
    dark, light = BACK
    image = _blank(width_px, height_px, dark)
    draw = ImageDraw.Draw(image)
    for x in range(8, width_px - 8, 8):
        for y in range(8, height_px - 8, 8):
            draw.polygon([(x + 3, y), (x + 6, y + 3), (x + 3, y + 6), (x, y + 3)], fill=light)
    return _frozen(image)


def _blank(width_px: int, height_px: int, fill: Colour) -> Image.Image:
    image = Image.new("RGB", (width_px, height_px), TABLE)
    box = (0, 0, width_px - 1, height_px - 1)
    ImageDraw.Draw(image).rounded_rectangle(box, radius=round(width_px / 11), fill=fill, outline=BORDER)
    return image


@cache
def inside(width_px: int, height_px: int) -> np.ndarray:
    """`[height, width]` bool: what a card covers; its corners are round."""
    mask = Image.new("1", (width_px, height_px))
    box = (0, 0, width_px - 1, height_px - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius=round(width_px / 11), fill=1)
    return np.array(mask)
