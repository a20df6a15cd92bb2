"""The page as a browser shows it: not blank, not wider than a phone, dark where that is wanted."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crucible.sdk.types import Dataset
from crucible_components.reporting.elements.style import DARK, LIGHT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LAPTOP_WIDTH, PHONE_WIDTH = 1280, 390
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def browse(*options: str, page: Path, scheme: str = "light") -> str:
    """What headless Chromium writes to standard output when it opens ``page``."""
    assert CHROMIUM is not None
    arguments = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--user-data-dir={page.parent / 'browser'}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def screenshot(page: Path, *, width: int, scheme: str) -> np.ndarray:
    target = page.parent / f"{page.stem}-{width}-{scheme}.png"
    browse(f"--screenshot={target}", f"--window-size={width},2400", page=page, scheme=scheme)
    with Image.open(target) as picture:
        return np.asarray(picture.convert("RGB"))


def framed(page: Path, width: int) -> Path:
    """A page that shows ``page`` in a frame of ``width``; browsers open no window that narrow."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    report = "parent.postMessage(document.documentElement.scrollWidth+'/'+innerWidth,'*')"
    inner, outer = page.with_name("inner.html"), page.with_name(f"framed-{width}.html")
    inner.write_text(text.replace("</body>", f"<script>onload=()=>{report}</script></body>"))
    outer.write_text(
        "<!doctype html><title>waiting</title><body style='margin:0'>"
        "<script>onmessage=event=>{document.title=event.data}</script>"
        f"<iframe src='inner.html' style='border:0;width:{width}px;height:2400px'></iframe>"
    )
    return outer


def luminance(color: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture
def page(
    tmp_path: Path,
    quickstart: object,
    predictions: list[Dataset],
    questions: Dataset,
    render: Callable[..., str],
) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render(quickstart, predictions, questions))
    return path


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [PHONE_WIDTH, 320, LAPTOP_WIDTH])
def test_page_is_never_wider_than_the_window(page: Path, width: int) -> None:
    outer = framed(page, width)
    options = ("--virtual-time-budget=4000", "--dump-dom", f"--window-size={LAPTOP_WIDTH},2400")
    title = re.search(r"<title>(\d+)/(\d+)</title>", browse(*options, page=outer))
    assert title, "the page did not load"
    assert int(title[2]) == width
    assert int(title[1]) <= width


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "colors"), [("light", LIGHT), ("dark", DARK)])
def test_page_is_drawn_in_the_wanted_scheme(
    page: Path, scheme: str, colors: dict[str, str]
) -> None:
    pixels = screenshot(page, width=LAPTOP_WIDTH, scheme=scheme)
    ground = [int(colors["ground"][i : i + 2], 16) for i in (1, 3, 5)]
    card = [int(colors["card"][i : i + 2], 16) for i in (1, 3, 5)]
    assert (pixels[-1, 2] == ground).all()
    assert (pixels == card).all(axis=-1).mean() > 0.3
    busy = (np.abs(pixels.astype(int) - card).sum(axis=-1) > 60).mean(axis=1)
    assert (busy > 0.005).mean() > 0.5, "most rows of the picture show something"
    packed = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
    assert len(np.unique(packed)) > 200


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(colors: dict[str, str]) -> None:
    pairs = [("ink", "ground"), ("ink", "card"), ("ink", "raised")]
    pairs += [("muted", "ground"), ("muted", "card"), ("muted", "raised"), ("accent", "card")]
    pairs += [(tone, f"{tone}-ground") for tone in ("good", "bad", "warn")]
    pairs += [(tone, "card") for tone in ("good", "bad", "warn")]
    pairs += [("ink", f"{tone}-ground") for tone in ("good", "bad", "warn")]
    weak = {pair: contrast(*(colors[name] for name in pair)) for pair in pairs}
    assert {pair: value for pair, value in weak.items() if value < 4.5} == {}
    series = [contrast(colors[f"series-{n}"], colors["card"]) for n in range(1, 7)]
    assert min(series) > 3  # WCAG's bound for graphics
