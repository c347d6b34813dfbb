"""The page in a real browser: no errors, no scripts, nothing wider than a phone."""

import re
import shutil
import subprocess
from pathlib import Path

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
