"""Fonts for names in any script: Matplotlib's own and, for Chinese and Japanese, what is installed."""

from __future__ import annotations

from functools import cache

from matplotlib import font_manager

OWN_FONT = "DejaVu Sans"  # comes with Matplotlib: Latin, Greek, Cyrillic, Arabic
WIDER_FONTS = (
    "Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "Microsoft YaHei", "SimHei", "PingFang SC",
)  # fmt: skip


@cache
def font_families() -> list[str]:
    """Matplotlib's own font, and of those that have Chinese and Japanese characters what is installed."""
    there = set(font_manager.get_font_names())
    return [OWN_FONT, *(name for name in WIDER_FONTS if name in there)]


def font_file(text: str) -> str:
    """The file of the first of these fonts that has all characters of `text`; Matplotlib's own if none has."""
    files = [font_manager.findfont(family) for family in font_families()]
    return next((file for file in files if _has_all(file, text)), files[0])


def _has_all(file: str, text: str) -> bool:
    font = font_manager.get_font(file)
    return all(font.get_char_index(ord(character)) for character in text)
