"""The live page in headless Chromium: what it shows, in dark and light, and what it says when the line is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from serving import Tap, eventually, served

from edgead.errors import SourceError
from edgead.integrations.serve import Served
from edgead.integrations.serve.cameras import Unopened
from edgead.testing import FakeJudge

pytestmark = pytest.mark.chromium


def text(browser: Any, selector: str) -> str:
    found: str = browser.execute_script(
        "return document.querySelector(arguments[0])?.textContent ?? ''", selector
    )
    return found


def shows(browser: Any, selector: str, expected: str) -> None:
    eventually(lambda: text(browser, selector) == expected)


@pytest.fixture
def line() -> Iterator[tuple[Served, Tap]]:
    tap = Tap("left")
    gone = Unopened(SourceError("SOURCE_NOT_FOUND", "photos does not exist."), "right")
    judge = FakeJudge(score_of=lambda frame: 0.9 if frame.seq % 2 else 0.25)
    with served({"left": tap, "right": gone}, judge=judge) as (found, _):
        yield found, tap


def test_two_cameras_one_of_them_gone(browser: Any, line: tuple[Served, Tap]) -> None:
    served_line, tap = line
    browser.get(served_line.url)
    shows(browser, ".camera h2", "left")
    tap.open(2)
    shows(browser, ".camera strong", "DEFECT")
    shows(browser, '[data-count="good"]', "1")
    shows(browser, ".camera:nth-child(2) strong", "UNKNOWN")
    shows(browser, ".camera:nth-child(2) .chip", "not opened")
    assert "photos does not exist." in text(browser, ".camera:nth-child(2) .absent")
    shows(browser, "#ready", "not ready: cameras")
    # The picture and its map came through, and a reject's thumbnail.
    shown = "return document.querySelector('canvas').dataset.shown"
    eventually(lambda: browser.execute_script(shown) == "DEFECT")
    loaded = "return document.querySelector('.rejects img')?.naturalWidth"
    eventually(lambda: browser.execute_script(loaded))
    browser.execute_script("document.querySelector('.rejects button').click()")
    assert text(browser, "#reject-title") == "left, frame 1: DEFECT"
    severe = [one for one in browser.get_log("browser") if one["level"] == "SEVERE"]
    assert severe == []


def test_what_if(browser: Any, line: tuple[Served, Tap]) -> None:
    served_line, tap = line
    browser.get(served_line.url)
    tap.open(4)
    eventually(lambda: "2 of 4 (50.0 %) recent frames rejected" in text(browser, "#whatif-text"))
    browser.execute_script(
        "const s = document.getElementById('whatif'); s.value = 1000; s.dispatchEvent(new Event('input'))"
    )
    eventually(
        lambda: "0 of 4 (0.0 %) recent frames rejected; now 2" in text(browser, "#whatif-text")
    )
    assert "held-out good images 0" in text(browser, "#whatif-text")


def test_a_line_that_is_gone_leaves_no_verdict(browser: Any) -> None:
    tap = Tap("left")
    with served({"left": tap}) as (found, _):
        browser.get(found.url)
        tap.open()
        shows(browser, ".camera strong", "GOOD")
    shows(browser, ".camera strong", "UNKNOWN")
    eventually(lambda: browser.execute_script("return !document.getElementById('offline').hidden"))
    browser.get_log("browser")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_verdicts(browser: Any, line: tuple[Served, Tap], scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(line[0].url)
    shows(browser, ".camera h2", "left")
    script = """
      const box = document.querySelector('.verdict'), found = {};
      box.style.transition = 'none';
      for (const verdict of ['GOOD', 'DEFECT', 'UNKNOWN']) {
        box.dataset.verdict = verdict;
        found[verdict] = [getComputedStyle(box.querySelector('strong')).color, getComputedStyle(box).backgroundColor];
      }
      found.quiet = [getComputedStyle(document.querySelector('.quiet')).color,
                     getComputedStyle(document.querySelector('.bar')).backgroundColor];
      return found;
    """
    for name, (ink, paper) in browser.execute_script(script).items():
        light, dark = sorted((_luminance(ink), _luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{name} in {scheme}"


def test_the_keyboard_reaches_every_control(browser: Any, line: tuple[Served, Tap]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.get(line[0].url)
    line[1].open(2)
    eventually(
        lambda: browser.execute_script("return document.querySelector('.rejects button') !== null")
    )
    reached: set[str] = set()
    for _ in range(14):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.add(
            browser.execute_script(
                "return document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
    assert {"skip", "opacity", "BUTTON", "whatif-camera", "whatif", "whatif-reset"} <= reached


def _luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``. Source: WCAG 2.2, definition of relative luminance."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
