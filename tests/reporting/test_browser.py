"""The page in a real browser: no errors, what can be clicked works, all text can be read."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from features.prepare import prepare
from tests.reporting.pipelines import (
    TITLE,
    Page,
    add_model,
    add_rankings,
    make_config,
    named,
    page,
    score,
)

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

pytestmark = [
    pytest.mark.spark,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, as of apt-get install chromium"),
]

FRAME = """<body><iframe src="{page}" style="width:{width}px; height:800px; border:0"></iframe>
<script>onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  page.querySelectorAll("details").forEach(part => part.open = true);
  document.body.dataset.width = page.documentElement.scrollWidth;
}}</script>"""

ASK = """<body><iframe src="{page}" style="width:1000px; height:800px; border:0"></iframe>
<script>onload = async () => {{
  const frame = document.querySelector("iframe"), page = frame.contentDocument, found = [];
  {script}
  document.body.dataset.found = JSON.stringify(found);
}}</script>"""

CLICKS = """
  page.documentElement.style.scrollBehavior = "auto";
  for (const summary of page.querySelectorAll("summary")) {
    const details = summary.parentElement, seen = [];
    for (const _ of [1, 2]) {
      const before = details.open, height = details.offsetHeight;
      summary.click();
      await new Promise(done => setTimeout(done, 20));
      seen.push(details.open != before && details.offsetHeight != height);
    }
    found.push([summary.textContent, seen.every(x => x)]);
  }
  for (const link of page.querySelectorAll("a")) {
    link.click();
    await new Promise(done => setTimeout(done, 50));
    const target = page.querySelector(link.getAttribute("href"));
    const top = target.getBoundingClientRect().top, there = frame.contentWindow;
    const end = there.innerHeight + there.scrollY >= page.documentElement.scrollHeight - 2;
    const arrived = there.location.hash == link.getAttribute("href");
    found.push([link.textContent, arrived && top >= -1 && (top < 50 || end && top < 800)]);
  }"""

# WCAG 2: relative luminance, and the ratio of text to what it stands on, drawn on a pixel.
CONTRASTS = """
  const brush = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const luminance = () => {
    const rgb = brush.getImageData(0, 0, 1, 1).data, part = x =>
      x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(rgb[0]) + 0.7152 * part(rgb[1]) + 0.0722 * part(rgb[2]);
  };
  const paint = colour => { brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1); };
  const behind = element => {
    const all = [];
    for (let e = element; e; e = e.parentElement) all.unshift(e);
    all.forEach(e => paint(frame.contentWindow.getComputedStyle(e).backgroundColor));
  };
  page.querySelectorAll("details").forEach(part => part.open = true);
  // Cells of a small heat map have text, and this one is large.
  page.querySelectorAll(".heat td[style]").forEach(cell => cell.textContent = "+0.123");
  const walk = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim(), element = walk.currentNode.parentElement;
    if (!text || !element.getClientRects().length) continue;
    const style = frame.contentWindow.getComputedStyle(element);
    behind(element);
    const under = luminance();
    paint(element.closest("svg") ? style.fill : style.color);
    const over = luminance();
    const ratio = (Math.max(over, under) + 0.05) / (Math.min(over, under) + 0.05);
    found.push([text.slice(0, 40), element.tagName + "." + element.getAttribute("class"), ratio]);
  }
  behind(page.body);
  found.push(["", "paper", luminance()]);"""


@pytest.fixture(scope="module")
def file(spark, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    config = make_config(folder)
    prepared = prepare(spark, config)
    for seed, name in enumerate(("afm", "fm", "fwfm")):
        add_model(named(config, name), prepared, seed)
    add_rankings(spark, config)
    score(config)
    (folder / "report.html").write_text(page(config), encoding="utf-8")
    return folder / "report.html"


def browse(url: str, profile: Path, *more: str) -> tuple[str, str]:
    """The document as the browser has it in the end, and what it logged."""
    off = ["gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage"]
    result = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--no-first-run"),
            *(f"--disable-{feature}" for feature in off),
            *(f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0"),
            *("--virtual-time-budget=3000", "--allow-file-access-from-files", *more),
            *("--dump-dom", url),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.stdout, result.stderr


def test_no_errors_and_no_alert(file: Path, tmp_path: Path) -> None:
    document, logged = browse(file.as_uri(), tmp_path)
    assert TITLE in Page(document).text["recommendations"]
    assert "CONSOLE" not in logged, logged
    assert len(re.findall(r'<svg class="plot"', document)) == 6


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(file: Path, tmp_path: Path, width: int) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(page=file.as_uri(), width=width))
    document, _ = browse(frame.as_uri(), tmp_path / "profile")
    found = re.search(r'data-width="(\d+)"', document)
    assert found, document
    assert int(found[1]) <= width


def ask(file: Path, folder: Path, script: str, *more: str) -> list[list[Any]]:
    """What a script has found that looks into the page from outside."""
    frame = folder / "frame.html"
    frame.write_text(ASK.format(page=file.as_uri(), script=script), encoding="utf-8")
    document, logged = browse(
        frame.as_uri(), folder / "profile", "--virtual-time-budget=30000", *more
    )
    found = re.search(r'data-found="([^"]*)"', document)
    assert found, logged
    answer: list[list[Any]] = json.loads(html.unescape(found[1]))
    return answer


def test_what_can_be_clicked_does_what_it_says(file: Path, tmp_path: Path) -> None:
    found = ask(file, tmp_path, CLICKS)
    names = [name for name, _ in found]
    assert {"The numbers", "city", "tags", "1 Data", "7 Lineage"} <= set(names)
    assert [name for name, works in found if not works] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out(file: Path, tmp_path: Path, scheme: str) -> None:
    number = {"dark": 0, "light": 1}[scheme]
    found = ask(file, tmp_path, CONTRASTS, f"--blink-settings=preferredColorScheme={number}")
    *texts, (_, _, paper) = found
    assert (paper > 0.5) == (scheme == "light")
    assert len(texts) > 500
    assert [text for text in texts if text[2] < 4.5] == []  # WCAG AA
