"""The pages that are published can be read in light and in dark: the contrast of every colour that text is set in."""

import re
from pathlib import Path

import pytest

import qat_plugin

PACKAGE = Path(qat_plugin.__file__).parent
# Page -> what text is set in, and what it lies on.
PAGES = {
    "publishing/templates/space.html.jinja": [
        ("text", "ground"), ("text", "card"), ("quiet", "ground"), ("quiet", "card"), ("accent", "ground"),
        ("accent", "card"), ("error", "card"), ("on-accent", "accent"),
    ],
    "evaluation/templates/page.html.jinja": [
        ("text", "paper"), ("text", "soft"), ("wrong", "paper"), ("wrong", "soft"), ("missing", "paper"), ("missing", "soft"),
    ],
}  # fmt: skip
READABLE = 4.5
"""Ratio that the Web Content Accessibility Guidelines ask of text (level AA)."""


def luminance(colour: str) -> float:
    """Relative, 0 (black) to 1 (white), of '#rrggbb'."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def palettes(style: str) -> dict[str, dict[str, str]]:
    """Variables of the light page, and of the dark one."""
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    )
    return {"light": light, "dark": {**light, **dark}}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_text_stands_out(page: str, scheme: str) -> None:
    style = (PACKAGE / page).read_text(encoding="utf8").partition("</style>")[0]
    colours = palettes(style)[scheme]
    poor = {
        (text, ground): round(contrast(colours[text], colours[ground]), 2)
        for text, ground in PAGES[page]
        if contrast(colours[text], colours[ground]) < READABLE
    }
    assert poor == {}
    ground = luminance(colours[PAGES[page][0][1]])
    assert ground > 0.8 if scheme == "light" else ground < 0.05
    assert "color-scheme: light dark" in style and "@media (prefers-color-scheme: dark)" in style


@pytest.mark.parametrize("page", PAGES)
def test_every_colour_of_text_is_one_of_the_two_schemes(page: str) -> None:
    style = (PACKAGE / page).read_text(encoding="utf8").partition("</style>")[0]
    used = set(re.findall(r"[; {]color: ([^;]+);", style))
    checked = {f"var(--{text})" for text, _ in PAGES[page]}
    assert used and used <= checked
    assert palettes(style)["dark"].keys() == palettes(style)["light"].keys()


def test_contrast_is_that_of_the_guidelines() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the grey that just fails
