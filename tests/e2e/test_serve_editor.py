"""The view's editor in headless Chromium: drawn with a pointer and with the keyboard, saved, and what it says then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gravel import PATH, gravel_bundle, gravel_frame
from serving import Tap, eventually, served

from edgead.bundle import read_bundle
from edgead.frame import Frame
from edgead.integrations.serve import Served
from edgead.integrations.serve.editing import Editing

pytestmark = pytest.mark.chromium


class Gravel(Tap):
    """A camera over gravel, whose frames have the bundle's size."""

    def read(self, timeout_s: float) -> Frame | None:
        return None if super().read(timeout_s) is None else gravel_frame()


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[tuple[Any, Path, Served]]:
    """The editor over a picture, and where it saves."""
    path = tmp_path / "part.edgead"
    path.write_bytes(PATH.read_bytes())
    tap = Gravel("left")
    with served({"left": tap}, editing=Editing(gravel_bundle, path)) as (line, _):
        tap.open()
        eventually(lambda: line.line.board.taken == 1)
        browser.set_window_size(1300, 1000)
        browser.get(f"{line.url}edit")
        eventually(lambda: run(browser, "return document.getElementById('picture').naturalWidth"))
        yield browser, path.with_name("part.view.edgead"), line
    severe = [one for one in browser.get_log("browser") if one["level"] == "SEVERE"]
    assert [one for one in severe if "status of 4" not in one["message"]] == []


def run(browser: Any, script: str, *arguments: Any) -> Any:
    return browser.execute_script(script, *arguments)


def press(browser: Any, draw: str) -> None:
    find(browser, f'[data-draw="{draw}"]').click()


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def pointer(browser: Any, *steps: tuple[str, float, float]) -> None:
    """Move, press or release at places in frame pixels."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    build = ActionBuilder(browser, duration=20)
    for name, x, y in steps:
        at = run(
            browser,
            "const at = new DOMPoint(arguments[0], arguments[1])"
            ".matrixTransform(document.getElementById('drawing').getScreenCTM());"
            "return [Math.round(at.x), Math.round(at.y)]",
            x,
            y,
        )
        build.pointer_action.move_to_location(*at)
        if name in ("down", "click"):
            build.pointer_action.pointer_down()
        if name in ("up", "click"):
            build.pointer_action.pointer_up()
    build.perform()


def keys(browser: Any, *named: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    for name in named:
        ActionChains(browser).send_keys(getattr(Keys, name, name)).perform()


def written(browser: Any) -> list[str]:
    """The shapes as the list says them."""
    script = """
      return [...document.querySelectorAll('#shapes li')].map(
        (item) => `${item.querySelector('label').textContent}: ${item.querySelector('input').value}`)
    """
    found: list[str] = run(browser, script)
    return found


def says(browser: Any, *parts: str) -> str:
    text: str = eventually(
        lambda: run(browser, "return document.getElementById('saved').textContent")
    )
    for part in parts:
        assert part in text
    return text


def test_drawn_with_a_pointer_and_saved(page: tuple[Any, Path, Served]) -> None:
    browser, saved, line = page
    press(browser, "roi box")
    pointer(browser, ("down", 10, 20), ("move", 50, 50), ("up", 80, 90))
    assert written(browser) == ["Look inside 1: 10,20,80,90"]
    press(browser, "ignore polygon")
    pointer(browser, ("click", 30, 30), ("click", 50, 30), ("click", 40, 60), ("click", 30, 30))
    assert written(browser)[1] == "Ignored 1: 30,30 50,30 40,60"
    # A corner of the rectangle is dragged, the whole ignored place is moved.
    pointer(browser, ("down", 80, 90), ("move", 85, 91), ("up", 90, 92))
    pointer(browser, ("down", 40, 40), ("move", 42, 44), ("up", 45, 45))
    assert written(browser) == [
        "Look inside 1: 10,20,90,92",
        "Ignored 1: 35,35 55,35 45,65",
    ]
    find(browser, "#save").click()
    says(
        browser,
        f"Saved as {saved}.",
        "of the frame is looked at.",
        "It has no threshold yet and is refused until it is commissioned again.",
        f"edgead commission {saved} GOOD",
    )
    view = read_bundle(saved).manifest.view
    assert view.roi == (10, 20, 90, 92)
    assert view.ignore == [[(35, 35), (55, 35), (45, 65)]]
    assert line.line.editing is not None
    assert line.line.editing.about()["roi"] == []  # the line goes on as it was


def test_drawn_with_the_keyboard(page: tuple[Any, Path, Served]) -> None:
    browser, saved, _ = page
    run(browser, "document.querySelector('[data-draw=\"roi box\"]').focus()")
    keys(browser, "ENTER")
    assert written(browser) == ["Look inside 1: 24,24,72,72"]
    keys(browser, "ARROW_LEFT", "ARROW_UP", "ARROW_UP")  # the first corner has the focus
    assert written(browser) == ["Look inside 1: 23,22,72,72"]
    name = run(browser, "return document.activeElement.getAttribute('aria-label')")
    assert name == "Look inside 1, corner 1 of 4: 23, 22"
    field = find(browser, "#points-0")
    field.clear()
    field.send_keys("0,0 96,0 48,90")
    keys(browser, "ENTER")
    assert run(browser, "return document.querySelectorAll('.handle').length") == 3
    find(browser, "#undo").click()
    assert written(browser) == ["Look inside 1: 23,22,72,72"]
    run(browser, "document.getElementById('save').focus()")
    keys(browser, "ENTER")
    says(browser, "Saved as")
    assert read_bundle(saved).manifest.view.roi == (23, 22, 72, 72)


def test_a_polygon_can_be_taken_back_and_given_up(page: tuple[Any, Path, Served]) -> None:
    browser, _, _ = page
    press(browser, "roi polygon")
    pointer(browser, ("click", 10, 10), ("click", 60, 12), ("click", 70, 70), ("click", 20, 80))
    keys(browser, "BACKSPACE", "ENTER")
    assert written(browser) == ["Look inside 1: 10,10 60,12 70,70"]
    press(browser, "ignore polygon")
    pointer(browser, ("click", 10, 10), ("click", 60, 12))
    keys(browser, "ESCAPE")
    assert len(written(browser)) == 1
    find(browser, "#shapes button").click()
    assert written(browser) == []
    assert "whole frame is looked at" in run(
        browser, "return document.getElementById('whole').textContent"
    )


def test_a_scale_from_a_line_of_known_length(page: tuple[Any, Path, Served]) -> None:
    browser, saved, _ = page
    press(browser, "measure line")
    pointer(browser, ("down", 10, 50), ("move", 40, 50), ("up", 90, 50))
    find(browser, "#length").send_keys("4")
    assert find(browser, "#mm").get_attribute("value") == "0.05"
    run(browser, "document.getElementById('unit').value = 'mm2'")
    area = find(browser, "#area")
    area.clear()
    area.send_keys("0.5")
    find(browser, "#save").click()
    says(browser, "Its threshold holds")
    units = read_bundle(saved).manifest.units
    assert (units.mm_per_px, units.min_area_px) == (0.05, 200)


def test_what_cannot_be_saved_is_said(page: tuple[Any, Path, Served]) -> None:
    browser, saved, _ = page
    find(browser, "#save").click()
    says(browser, "Nothing was changed")
    run(browser, "document.getElementById('unit').value = 'mm2'")
    area = find(browser, "#area")
    area.clear()
    area.send_keys("2")
    find(browser, "#save").click()
    says(browser, "there is no scale")
    run(browser, "document.getElementById('unit').value = 'px'")
    press(browser, "ignore box")
    pointer(browser, ("down", 0, 0), ("move", 50, 50), ("up", 96, 96))
    find(browser, "#save").click()
    eventually(lambda: "leave nothing to look at" in says(browser))
    assert not saved.exists()


def test_reached_from_the_line(page: tuple[Any, Path, Served]) -> None:
    browser, _, line = page
    browser.get(line.url)
    script = "return document.querySelector('.camera .edit:not([hidden])')?.getAttribute('href')"
    assert eventually(lambda: run(browser, script)) == "/edit?camera=0"
