"""Lessons as a newcomer meets them: `make lab`, a real browser, run all, drag a slider, see a new picture.

Screenshots of every stage are left in `test-artifacts/`, which git ignores.
"""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
LESSONS = ("00_start_here.ipynb", "01_forward_noising.ipynb")
ARTIFACTS = ROOT / "test-artifacts"
SECONDS = 900  # for the whole lesson; it takes about a minute where nothing else runs
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
TOKEN = "browser-test"
ERROR = "application/vnd.jupyter.error"

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab that `make lab` started on a copy of the notebooks; the checkout is not touched."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    port = free_port()
    arguments = f"--no-browser --ServerApp.port={port} --ServerApp.port_retries=0 --IdentityProvider.token={TOKEN}"
    command = ["make", "lab", f"VENV={sys.prefix}", f"LAB_ROOT={tmp_path}", f"LAB_ARGS={arguments}"]
    command += ["-o", f"{sys.prefix}/.ready"]  # this environment is the one to use, whoever made it
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    log = tmp_path / "lab.log"
    with open(log, "w") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output, process_group=0)
    try:
        wait_for(server, f"http://127.0.0.1:{port}/api", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(server, f"http://127.0.0.1:{port}")


def stop(server: subprocess.Popen[bytes], address: str) -> None:
    """Ask the server to end its kernels and itself; end it all the same if it does not."""
    try:
        request = urllib.request.Request(f"{address}/api/shutdown?token={TOKEN}", data=b"", method="POST")
        urllib.request.urlopen(request, timeout=10).close()
        server.wait(30)
    except (OSError, subprocess.TimeoutExpired):
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # it answers, if only to ask for the token
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.5)
    pytest.fail("`make lab` did not start:\n" + log.read_text()[-3000:])


@pytest.fixture
def page(chromium: str, tmp_path: Path) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as drive:
        browser = drive.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1600})
        page.set_default_timeout(60_000)
        ARTIFACTS.mkdir(exist_ok=True)
        yield page
        page.screenshot(path=ARTIFACTS / "end.png")
        browser.close()


def run_all(page: Any) -> None:
    """The menu's Run All Cells, and wait until the last cell has run. Any dialog on the way is a failure.

    A cell that waits or runs has a star for its number; but one whose code is folded away, a quiz, has no number. So
    the kernel has to be idle as well, at two looks in a row.
    """
    idle = page.locator(".jp-StatusBar-TextItem, [id='jp-main-statusbar'] span").get_by_text("| Idle")
    idle.first.wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    errors, dialogs = page.locator(f"[data-mime-type='{ERROR}']"), page.locator(".jp-Dialog")
    stars = page.locator(".jp-InputPrompt", has_text="*")
    stars.first.wait_for(state="attached")
    end, quiet = time.monotonic() + SECONDS, 0
    while quiet < 2:
        assert dialogs.count() == 0, dialogs.first.inner_text()
        assert errors.count() == 0, errors.first.text_content()
        assert time.monotonic() < end, "the last cell never ran"
        time.sleep(1)
        quiet = quiet + 1 if stars.count() == 0 and idle.count() else 0
    assert errors.count() == 0, errors.first.text_content()


# Read in one go inside the page: a widget may replace its pictures at any moment.
PIXELS = """output => [...output.querySelectorAll("img")]
  .filter(img => img.checkVisibility() && img.complete && img.naturalWidth)
  .map(img => {
    const canvas = new OffscreenCanvas(32, 32).getContext("2d");
    canvas.drawImage(img, 0, 0, 32, 32);
    return Array.from(canvas.getImageData(0, 0, 32, 32).data);
  })"""


def pictures(output: Any) -> list[np.ndarray]:
    """Every picture shown in a cell's output, as RGBA levels, reduced to 32 x 32."""
    return [np.array(levels, dtype=float) for levels in output.evaluate(PIXELS)]


def change(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """The largest mean difference of a picture, in levels of 255."""
    return max((float(np.abs(a - b).mean()) for a, b in zip(before, after, strict=False)), default=0.0)


def drag(page: Any, slider: Any, share: float) -> None:
    """Drag a slider's handle to that share of its track, as a hand does."""
    slider.locator(".noUi-handle").hover()  # scrolls there, and waits until nothing moves
    track, handle = slider.locator(".noUi-base").bounding_box(), slider.locator(".noUi-handle").bounding_box()
    height = handle["y"] + handle["height"] / 2
    page.mouse.move(handle["x"] + handle["width"] / 2, height)
    page.mouse.down()
    page.mouse.move(track["x"] + share * track["width"], height, steps=8)
    page.mouse.up()


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_runs_and_its_slider_changes_the_picture(lab: str, page: Any, lesson: str) -> None:
    if not (ROOT / "notebooks" / lesson).is_file():
        pytest.skip(f"{lesson} is not in this checkout")
    # reset: without the tabs that another run left open
    page.goto(f"{lab}/lab/tree/notebooks/{lesson}?reset&token={TOKEN}")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    run_all(page)
    output = page.locator(".jp-OutputArea-output", has=page.locator(".widget-slider .noUi-handle")).first
    output.locator("img:visible").first.wait_for()
    slider = output.locator(".widget-slider").first
    slider.scroll_into_view_if_needed()
    end = time.monotonic() + 90
    while True:  # cells above may still grow and move the slider away under the mouse: then drag once more
        drag(page, slider, 0.02)
        time.sleep(2)
        start = pictures(output)
        page.screenshot(path=ARTIFACTS / f"{lesson[:2]}_slider_at_the_left.png")
        assert start, "the widget shows no picture"
        drag(page, slider, 0.9)
        time.sleep(2)
        page.screenshot(path=ARTIFACTS / f"{lesson[:2]}_slider_at_the_right.png")
        if change(start, pictures(output)) >= 1.0:
            break
        assert time.monotonic() < end, "the pictures are the same at both ends of the slider"
    answer_a_question(page)


def answer_a_question(page: Any) -> None:
    """The quiz of a lesson that has one: choose with the keyboard, read why, see it counted."""
    asked = page.locator(".ldm-edu-quiz")
    if asked.count() == 0:
        return
    first = asked.first.locator(".widget-radio-box input").first
    first.scroll_into_view_if_needed()
    first.focus()
    page.keyboard.press("Space")
    asked.first.get_by_text("1 of").wait_for()
    assert asked.first.locator("[role=status]").first.inner_text().strip().startswith(("✓", "✗"))
    page.screenshot(path=ARTIFACTS / "quiz_answered.png")


REDRAWS = """async slider => {
  const frame = () => new Promise(requestAnimationFrame);
  const painted = () => new Promise(done => {  // a task that runs once the frame is on the screen
    const channel = new MessageChannel();
    channel.port1.onmessage = done;
    channel.port2.postMessage(0);
  });
  const shown = () => [...document.querySelectorAll(".jp-OutputArea-output img")].filter(i => i.checkVisibility());
  const key = shown => shown.map(i => i.src).join();
  const handle = slider.querySelector(".noUi-handle"), times = [], frames = [];
  for (let n = 0; n < 49; n++) {
    await frame();
    const empty = performance.now();
    await frame();
    frames.push(performance.now() - empty);
    const before = key(shown()), start = performance.now();
    handle.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true, cancelable: true}));
    for (;;) {
      await frame();
      const now = shown();
      if (now.length && key(now) !== before && now.every(i => i.complete && i.naturalWidth)) break;
      if (performance.now() - start > 2000) return {times, frames, stuck: n};
    }
    await painted();
    times.push(performance.now() - start);
  }
  return {times, frames, stuck: null};
}"""

SCRUB = """
import torch
from ldm_edu.config import ScheduleConfig
from ldm_edu.samplers.step import Step
from ldm_edu.schedule import levels, make_schedule
from ldm_edu.viz import explore
stops = levels(make_schedule(ScheduleConfig()), 50)
draw = lambda: torch.rand(1, 4, 16, 16) * 2 - 1
explore([Step(i, draw(), draw(), stops[i + 1]) for i in range(50)],
        lambda z: z[:, :3].repeat_interleave(4, -1).repeat_interleave(4, -2))
"""


def test_a_scrub_of_fifty_steps_shows_every_picture(lab: str, page: Any, tmp_path: Path) -> None:
    """49 arrow keys, 49 new pictures. How long each took is written down, not judged: another program may be busy."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SCRUB)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "notebooks" / "scrub.ipynb")
    page.goto(f"{lab}/lab/tree/notebooks/scrub.ipynb?reset&token={TOKEN}")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    run_all(page)
    slider = page.locator(".widget-slider").first
    slider.locator(".noUi-handle").wait_for()
    page.locator(".jp-OutputArea-output img:visible").first.wait_for()
    page.wait_for_timeout(1000)
    found = slider.evaluate(REDRAWS)
    assert found["stuck"] is None, f"no new picture after arrow key {found['stuck'] + 1}"
    times, empty = sorted(found["times"]), statistics.median(found["frames"])
    record = {"steps": 50, "median_ms": statistics.median(times), "p95_ms": times[46], "empty_frame_ms": empty}
    (ARTIFACTS / "explorer_redraw.json").write_text(json.dumps(record | {"all_ms": times}, indent=1))
    page.screenshot(path=ARTIFACTS / "explorer_scrubbed.png")
