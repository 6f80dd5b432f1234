"""The editor's interface: a drawing becomes a bundle of its own, and the line goes on as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from gravel import PATH, gravel_bundle
from serving import Tap, eventually, served

from edgead.bundle import Bundle, read_bundle, write_bundle
from edgead.errors import BundleError, ConfigError
from edgead.images import decode, encode_png
from edgead.integrations.serve import Served
from edgead.integrations.serve.editing import Drawn, Editing, shown_view
from edgead.manifest import Tiles, View
from edgead.testing import textured
from edgead.view import check_commissioned, make_view, with_view

BOX = [[10, 20], [70, 20], [70, 90], [10, 90]]
TRIANGLE = [[40, 40], [60, 40], [50, 60]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    where = tmp_path / "part.edgead"
    where.write_bytes(PATH.read_bytes())
    return where


@pytest.fixture
def editing(path: Path) -> Editing:
    return Editing(gravel_bundle, path)


@pytest.fixture
def line(editing: Editing) -> Iterator[tuple[Served, httpx.Client, Tap]]:
    tap = Tap()
    with served({"cam": tap}, editing=editing) as (found, client):
        yield found, client, tap


def test_a_drawing_is_saved_beside_the_running_bundle(editing: Editing, path: Path) -> None:
    before = path.read_bytes()
    found = editing.save(Drawn(roi=[BOX], ignore=[TRIANGLE]))
    saved = path.with_name("part.view.edgead")
    assert found == {
        "file": str(saved),
        "commissioned": False,
        "looked_at": found["looked_at"],
        "commands": [f"edgead commission {saved} GOOD", f"edgead serve {saved} --source URI"],
    }
    assert 0.4 < found["looked_at"] < 60 * 70 / 96**2
    assert path.read_bytes() == before
    expected = with_view(
        gravel_bundle(), make_view(gravel_bundle().manifest.frame, roi=[BOX], ignore=[TRIANGLE])
    )
    assert read_bundle(saved).hash == expected.hash  # as edgead view writes it
    with pytest.raises(BundleError, match="VIEW_CHANGED"):
        check_commissioned(read_bundle(saved).manifest)


def test_a_drawing_is_replaced_and_what_was_commissioned_is_kept(
    editing: Editing, path: Path
) -> None:
    first = editing.save(Drawn(roi=[BOX]))["file"]
    assert editing.save(Drawn(ignore=[TRIANGLE]))["file"] == first
    drawn = read_bundle(first)
    assert drawn.manifest.view.roi is None
    limits = msgspec.structs.replace(drawn.manifest.thresholds, how="commissioned", images=50)
    write_bundle(first, drawn.with_members({}, thresholds=limits))
    kept = Path(first).read_bytes()
    assert editing.save(Drawn(roi=[BOX]))["file"] == str(path.with_name("part.view-2.edgead"))
    assert Path(first).read_bytes() == kept
    # Served from such a file, the next one has the same stem, and the running file is never written.
    again = Editing(lambda: read_bundle(first), Path(first))
    third = again.save(Drawn(roi=[TRIANGLE]))["file"]
    assert third == str(path.with_name("part.view-3.edgead"))
    assert Path(first).read_bytes() == kept


def test_a_file_that_is_no_bundle_is_kept(editing: Editing, path: Path) -> None:
    path.with_name("part.view.edgead").write_text("notes")
    assert editing.save(Drawn(roi=[BOX]))["file"].endswith("part.view-2.edgead")
    assert path.with_name("part.view.edgead").read_text() == "notes"


def test_all_names_taken(editing: Editing, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgead.integrations.serve.editing._MOST_SAVED", 1)
    path.with_name("part.view.edgead").write_text("notes")
    with pytest.raises(ConfigError) as caught:
        editing.save(Drawn(roi=[BOX]))
    assert str(caught.value) == (
        "[VIEW_DRAFTS] part.view.edgead to part.view-1.edgead hold commissioned views. "
        "Move those away that are not needed."
    )


def test_a_scale_alone_needs_no_commissioning(editing: Editing) -> None:
    found = editing.save(Drawn(mm_per_px=0.05, min_area_px=40))
    assert found["commissioned"] is True
    assert found["commands"] == [f"edgead serve {found['file']} --source URI"]
    units = read_bundle(found["file"]).manifest.units
    assert (units.mm_per_px, units.min_area_px) == (0.05, 40)


@pytest.mark.parametrize(
    "drawn",
    [Drawn(), Drawn(roi=[[(0, 0), (96, 0), (96, 96), (0, 96)]])],
    ids=["nothing", "around everything"],
)
def test_nothing_changed_writes_nothing(editing: Editing, path: Path, drawn: Drawn) -> None:
    assert editing.save(drawn)["file"] == ""
    assert [one.name for one in path.parent.iterdir()] == ["part.edgead"]


def test_mask_and_tiles_stay_until_the_mask_is_taken_away(path: Path) -> None:
    mask = textured(0, 96, 96)[:, :, 0].copy()
    mask[:] = 0
    mask[:30] = 255
    view = make_view(
        gravel_bundle().manifest.frame, has_mask=True, tiles=Tiles(size=(64, 64), overlap=8)
    )
    bundle = with_view(gravel_bundle(), view, encode_png(mask))
    editing = Editing(lambda: bundle, path)
    about = editing.about()
    assert (about["has_mask"], about["has_tiles"], about["frame_size"]) == (True, True, (96, 96))
    assert decode(editing.mask() or b"", name="mask").pixels.shape == (96, 96)
    kept = read_bundle(editing.save(Drawn(ignore=[TRIANGLE]))["file"]).manifest.view
    assert (bool(kept.mask), kept.tiles) == (True, view.tiles)
    gone = read_bundle(editing.save(Drawn(keep_mask=False))["file"])
    assert (bool(gone.manifest.view.mask), "ignore.png" in gone.members) == (False, False)
    assert shown_view(bundle.manifest) == "whole frame, mask image, tiles of 64x64"


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (View(), "whole frame"),
        (View(roi=(10, 20, 70, 90)), "60x70 at 10,20"),
        (
            View(roi=(10, 20, 70, 90), polygons=[TRIANGLE], ignore=[BOX]),
            "1 polygon, 1 ignored place",
        ),
        (
            View(roi=(10, 20, 70, 90), polygons=[TRIANGLE, BOX], ignore=[BOX, BOX]),
            "2 polygons, 2 ignored places",
        ),
    ],
)
def test_a_view_in_words(view: View, expected: str) -> None:
    bundle: Bundle = gravel_bundle().with_members({}, view=view)
    assert shown_view(bundle.manifest) == expected


def test_the_view_as_the_editor_draws_it(
    line: tuple[Served, httpx.Client, Tap], editing: Editing
) -> None:
    assert line[1].get("/api/v1/view").json() == {
        "bundle": "part.edgead",
        "roi": [],
        "ignore": [],
        "has_mask": False,
        "has_tiles": False,
        "mm_per_px": None,
        "min_area_px": 0.0,
        "frame_size": [96, 96],
    }
    saved = read_bundle(editing.save(Drawn(roi=[BOX]))["file"])
    assert Editing(lambda: saved, Path("b.edgead")).about()["roi"] == [[tuple(p) for p in BOX]]
    assert line[1].get("/api/v1/view/mask.png").status_code == 404
    assert line[1].get("/api/v1/model").json()["is_editable"] is True
    page = line[1].get("/edit")
    assert page.status_code == 200
    for name in ("edit.css", "edit.js", "shapes.js"):
        assert f"/static/{name}" in page.text or name == "shapes.js"
        assert line[1].get(f"/static/{name}").status_code == 200


def test_a_camera_picture_to_draw_on(line: tuple[Served, httpx.Client, Tap]) -> None:
    _, client, tap = line
    url = "/api/v1/cameras/0/frame.jpg"
    assert client.get(url).json()["code"] == "NO_PICTURE"
    tap.open()
    answer = eventually(lambda: (got := client.get(url)).status_code == 200 and got)
    assert decode(answer.content, name="frame").size == (48, 64)
    assert json.loads(answer.headers["X-Meta"])["size"] == [48, 64]
    assert client.get("/api/v1/cameras/7/frame.jpg").status_code == 404


def post(client: httpx.Client, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(
        "/api/v1/view", content=content, headers={"content-type": "application/json", **headers}
    )


def test_saved_over_http_while_the_line_goes_on(
    line: tuple[Served, httpx.Client, Tap], path: Path
) -> None:
    found, client, tap = line
    tap.open(2)
    answer = post(client, {"roi": [BOX], "ignore": []})
    assert answer.status_code == 200
    assert answer.json()["file"] == str(path.with_name("part.view.edgead"))
    tap.open(2)
    eventually(lambda: found.line.board.taken == 4)
    assert {row[2] for row in found.line.board.scores("cam")} == {1}


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        (b"{", 422, "DRAWING", "the drawing cannot be read: Input data was truncated."),
        (
            {"rio": []},
            422,
            "DRAWING",
            "the drawing cannot be read: Object contains unknown field `rio`.",
        ),
        (
            {"roi": [[[1, 2], [3, 4]]]},
            422,
            "VIEW_POLYGON",
            "a polygon has 2 points, or one that is far outside the frame; "
            "want 3 or more, in frame pixels.",
        ),
        (
            {"roi": [[[1e300, 0], [1e300, 9], [0, 9]]]},
            422,
            "VIEW_POLYGON",
            "a polygon has 3 points, or one that is far outside the frame; "
            "want 3 or more, in frame pixels.",
        ),
        (
            {"roi": [[[200, 200], [300, 200], [300, 300]]]},
            422,
            "VIEW_ROI",
            "the region of interest has no pixel inside the frame (96x96).",
        ),
        (
            {"ignore": [[[-1, -1], [97, -1], [97, 97], [-1, 97]]]},
            422,
            "VIEW_EMPTY",
            "the ignore polygons and the mask leave nothing to look at.",
        ),
        ({"mm_per_px": 0}, 422, "VIEW_UNITS", "mm_per_px is 0.0; want more than 0, or none."),
        ({"min_area_px": -1}, 422, "VIEW_UNITS", "min_area_px is -1.0; want 0 or more."),
        (
            {"ignore": [[[1, 2], [3, 4], [5, 6]] * 1400]},
            422,
            "MANIFEST",
            "manifest.json: view has polygons of 4200 points; at most 4096 are read.",
        ),
        (b" " * 300_000, 413, "BODY_TOO_LARGE", "the body is over 256 KiB."),
    ],
)
def test_a_refused_drawing(
    line: tuple[Served, httpx.Client, Tap],
    path: Path,
    body: Any,
    status: int,
    code: str,
    message: str,
) -> None:
    answer = post(line[1], body)
    found = answer.json()
    assert (answer.status_code, found["code"], found["message"]) == (status, code, message)
    assert [one.name for one in path.parent.iterdir()] == ["part.edgead"]


def test_a_form_of_another_site_is_no_drawing(line: tuple[Served, httpx.Client, Tap]) -> None:
    answer = post(line[1], {}, **{"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (415, "BODY_TYPE")
    answer = post(line[1], {}, origin="https://elsewhere.example")
    assert (answer.status_code, answer.json()["code"]) == (403, "ORIGIN")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    gone = Editing(gravel_bundle, tmp_path / "gone" / "part.edgead")
    with served({"cam": Tap()}, editing=gone) as (_, client):
        answer = post(client, {"roi": [BOX]})
        assert (answer.status_code, answer.json()["code"]) == (503, "NO_FOLDER")
        assert answer.json()["hint"].endswith("The folder of the bundle must be writable.")


def test_without_a_bundle_there_is_no_editor() -> None:
    with served() as (_, client):
        for path in ("/edit", "/api/v1/view", "/api/v1/view/mask.png"):
            assert client.get(path).status_code == 404
        assert post(client, {}).status_code == 404
        assert client.get("/api/v1/model").json()["is_editable"] is False


def test_a_token_is_asked_for(editing: Editing, path: Path) -> None:
    token = "0123456789abcdef0123"
    with served({"cam": Tap()}, editing=editing, token=token) as (_, client):
        assert post(client, {"roi": [BOX]}).status_code == 401
        asked = client.get("/edit")
        assert (asked.status_code, asked.headers["location"]) == (303, "/login")
        assert not path.with_name("part.view.edgead").exists()
        answer = post(client, {"roi": [BOX]}, authorization=f"Bearer {token}")
        assert answer.status_code == 200
