"""The page in a real browser without a network: every picture drawn, legible on a phone, nothing cut off."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
PHONE, DESK = 390, 1280  # px

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"no browser here ({', '.join(NAMES)})"),
]

# What a reader would see, measured by the browser itself in a frame of the window's width (a headless
# window has a least width of its own), with all folded parts open.
MEASURE = """<!DOCTYPE html><html><body><script>
const frame = document.createElement("iframe");
frame.style = "border: 0; height: 900px; width: WIDTHpx";
frame.addEventListener("load", () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const folded = [...page.querySelectorAll("details")];
  const shut = folded.filter(d => !d.open).length;
  folded.forEach(d => { d.open = true; });
  const box = e => e.getBoundingClientRect();
  const figures = [...page.querySelectorAll("figure")].map(f => {
    const drawn = f.querySelector("svg");
    const inner = drawn ? [...drawn.querySelectorAll("text")] : [];
    const outside = inner.filter(t => {
      const a = box(t), b = box(drawn);
      return a.left < b.left - 2 || a.right > b.right + 2 || a.top < b.top - 2 || a.bottom > b.bottom + 2;
    }).map(t => t.textContent);
    const shown = box(drawn || f.querySelector("table"));
    const scale = drawn ? shown.width / drawn.viewBox.baseVal.width : 1;
    const sizes = inner.map(t => scale * parseFloat(view.getComputedStyle(t).fontSize));
    const smallest = Math.min(...sizes, 99);
    return { id: f.id, width: shown.width, height: shown.height, drawn: !!drawn, outside, smallest };
  });
  const root = page.documentElement, style = view.getComputedStyle(page.body);
  const result = { figures, shut, overflow: root.scrollWidth - root.clientWidth, width: root.clientWidth,
                   ink: style.color, paper: style.backgroundColor };
  document.body.textContent = "MEASURED" + JSON.stringify(result) + "DONE";
});
frame.srcdoc = PAGE;
document.body.append(frame);
</script></body></html>
"""


def run(tmp_path: Path, page: Path, width: int, *arguments: str) -> str:
    """What the browser writes about a page in a window of that width, with no way to a network."""
    assert BROWSER is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    flags += ["--disable-quic", "--disable-sync", "--disable-background-networking", "--disable-component-update"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [BROWSER, *flags, f"--window-size={width},900", *arguments, page.as_uri()],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured(tmp_path: Path, report: Path, width: int, *arguments: str) -> dict[str, Any]:
    page = tmp_path / "measured.html"
    text = json.dumps((report / "index.html").read_text(encoding="utf-8")).replace("</", "<\\/")
    page.write_text(MEASURE.replace("WIDTH", str(width)).replace("PAGE", text))
    found = re.search("MEASURED(.*)DONE</body>", run(tmp_path, page, DESK, "--dump-dom", *arguments), re.DOTALL)
    assert found, "the page did not load"
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    return result


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_every_picture_is_drawn_and_fits(width: int, whole: Path, tmp_path: Path) -> None:
    seen = measured(tmp_path, whole, width)
    assert seen["width"] == width and seen["overflow"] == 0, "the page scrolls sideways"
    assert len(seen["figures"]) > 30 and seen["shut"] > 10
    for figure in seen["figures"]:
        assert figure["width"] > 100 and figure["height"] > 40, figure
        assert figure["outside"] == [], f"cut off in {figure['id']}"
        assert not figure["drawn"] or figure["smallest"] >= 6, figure  # px


def test_dark_mode_turns_ink_and_paper(whole: Path, tmp_path: Path) -> None:
    light = measured(tmp_path, whole, DESK)
    dark = measured(tmp_path, whole, DESK, "--blink-settings=preferredColorScheme=0")
    assert light["paper"] == "rgb(255, 255, 255)"
    assert dark["paper"] != light["paper"] and dark["ink"] != light["ink"]


def test_it_can_be_photographed_and_printed(whole: Path, tmp_path: Path) -> None:
    picture, paper = tmp_path / "page.png", tmp_path / "page.pdf"
    run(tmp_path, whole / "index.html", PHONE, f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    run(tmp_path, whole / "index.html", DESK, f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    assert paper.read_bytes().startswith(b"%PDF") and paper.stat().st_size > 100_000
