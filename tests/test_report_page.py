"""The report's page in a real browser: no console error, nothing loaded from outside, nothing wider than the screen."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import run_command
from support.reported import write_grid

from whisperq.report.page import POLICY

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr"
).split()
# What a page says of itself once it has loaded; the report itself has no script, so that a copy carries this one.
PROBE = """<script>addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".wide") &&
    e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + "." + e.className);
  const small = [...document.querySelectorAll("p, td, th, li, figcaption, pre, small, a")].filter(e =>
    e.offsetParent && parseFloat(getComputedStyle(e).fontSize) < 10).map(e => e.tagName);
  const images = [...document.images].map(i => [i.complete && i.naturalWidth > 0, i.clientWidth]);
  const anchors = [...document.querySelectorAll('a[href^="#"]')].filter(a =>
    !document.getElementById(a.getAttribute("href").slice(1))).map(a => a.getAttribute("href"));
  const loaded = performance.getEntriesByType("resource").map(r => r.name).filter(n => !n.startsWith("data:"));
  const found = {inner: innerWidth, scroll: document.documentElement.scrollWidth, wide, small, images, anchors, loaded};
  parent.postMessage(JSON.stringify(found), "*");
});</script>"""
# No window of Chromium's is narrower than 500 pixels; a frame can be.
FRAME = """<!doctype html><pre id=probe></pre><script>
addEventListener("message", e => document.getElementById("probe").textContent = e.data);
</script><iframe src="copy.html" width={width} height=900 style="border: 0"></iframe>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report with a broken chain in it."""
    folder = tmp_path_factory.mktemp("page")
    runs = write_grid(folder, seeds=(0, 1))
    shutil.rmtree(runs / "none-0" / "student")
    result = run_command("report", runs, "--out", folder / "report")
    assert result.exit_code == 0, result.stderr
    return folder / "report" / "report.html"


def chromium(page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--window-size=1280,900", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def complaints(finished: subprocess.CompletedProcess) -> list[str]:
    return [line for line in finished.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
def test_the_page_names_nothing_outside_itself(page):
    text = page.read_text()
    assert POLICY in text and "<script" not in text
    assert not re.findall(r"""(?:src|srcset|action|data)=["']?(?!data:)[a-z]+:""", text)
    assert not re.findall(r"url\(|@import|https?://(?!www\.w3\.org)", re.sub(r"base64,[\w+/=]+", "", text))


def test_a_broken_chain_is_at_the_top_and_at_its_numbers(page):
    text = page.read_text()
    assert "Broken chains." in text and "its student" in text and "is gone" in text
    rates = re.search(r'<section id="table2">.*?</section>', text, re.DOTALL)[0]
    marked = [row for row in re.findall(r"<tr>.*?</tr>", rates) if "class=broken" in row]
    assert marked and all("none" in row and "headwise" not in row for row in marked)
    assert text.count('class="card torn"') == 6  # none-0's distilled, calibration, quantized, two evaluations, outliers


@browser
def test_the_browser_complains_of_nothing(page, tmp_path):
    shown = chromium(page, tmp_path / "profile", f"--screenshot={tmp_path / 'page.png'}")
    assert (tmp_path / "page.png").stat().st_size > 20_000
    assert not complaints(shown)


@browser
def test_and_would_complain_of_what_is_loaded_from_outside(page, tmp_path):
    copy = tmp_path / "copy.html"
    copy.write_text(page.read_text().replace("</body>", '<img src="http://127.0.0.1:9/outside.png"></body>'))
    assert complaints(chromium(copy, tmp_path / "profile", "--dump-dom"))


@browser
@pytest.mark.parametrize("width", (1280, 390))
def test_the_page_fits_the_screen_and_can_be_read(page, tmp_path, width):
    copy = tmp_path / "copy.html"
    text = page.read_text().replace(POLICY, f"{POLICY}; script-src 'unsafe-inline'")
    copy.write_text(text.replace("</head>", f"{PROBE}</head>"))
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("{width}", str(width)))
    dumped = chromium(frame, tmp_path / "profile", "--dump-dom")
    found = json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', dumped.stdout, re.DOTALL)[1]))
    assert found["inner"] == width and found["scroll"] <= width
    assert found["wide"] == [] and found["small"] == [] and found["anchors"] == [] and found["loaded"] == []
    assert found["images"] and all(complete and shown >= 250 for complete, shown in found["images"])
    assert not complaints(dumped)
