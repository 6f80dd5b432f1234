"""Random requests against the served line: no server error but 503, and every answer as the OpenAPI document says.

    EDGEAD_FUZZ_TIMES=100 pytest -s tests/property/test_serve_fuzz.py

asks a hundred times as often, differently each time, and prints how many answers of which status there were.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from gravel import PATH, gravel_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving import Tap, eventually, picture_png, served

from edgead.integrations.serve.editing import Editing
from edgead.integrations.serve.openapi import openapi_document

_DOCUMENT = openapi_document(with_token=False)
_SCHEMA = schemathesis.openapi.from_dict(_DOCUMENT)
_OPERATIONS = {one.ok().label: one.ok() for one in _SCHEMA.get_all_operations()}
_TIMES = int(os.environ.get("EDGEAD_FUZZ_TIMES", "1"))
_STATUSES: Counter[int] = Counter()


def few(count: int) -> settings:
    """So many examples, the same each time; more of them by EDGEAD_FUZZ_TIMES."""
    return settings(
        max_examples=count * _TIMES,
        derandomize=_TIMES == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "X-ODD")
_PIECES = (
    "api",
    "v1",
    "cameras",
    "0",
    "-1",
    "9" * 30,
    "scores",
    "rejects",
    "..",
    "%00",
    "%ff",
    "a" * 300,
    "detect",
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    tap = Tap()
    path = tmp_path_factory.mktemp("bundle") / "part.edgead"
    path.write_bytes(PATH.read_bytes())
    with served({"cam": tap}, editing=Editing(gravel_bundle, path)) as (line, found):
        tap.open(3)
        eventually(lambda: line.line.board.taken == 3)
        found.event_hooks["response"].append(lambda answer: count(answer.status_code))
        yield found
        assert path.read_bytes() == PATH.read_bytes()
        assert line.line.stream.counts.received == 3
    print(f"{_STATUSES.total()} answers: {dict(sorted(_STATUSES.items()))}")  # noqa: T201


def count(status: int) -> None:
    _STATUSES[status] += 1
    assert status < 500 or status == 503


@pytest.mark.parametrize("label", sorted(_OPERATIONS))
def test_answers_are_as_documented(client: httpx.Client, label: str) -> None:
    @few(12)
    @given(case=_OPERATIONS[label].as_strategy())
    def check(case: schemathesis.Case) -> None:
        answer = case.call(base_url=str(client.base_url).rstrip("/"), timeout=60)
        count(answer.status_code)
        # No schema can say what an image file is: bytes that fit it may well be refused.
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])

    check()


@few(80)
@given(
    method=st.sampled_from(_METHODS),
    pieces=st.lists(st.sampled_from(_PIECES), max_size=6),
    query=st.text(
        st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=40
    ),
    body=st.binary(max_size=400),
    header=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
)
def test_any_request_gets_an_answer(
    client: httpx.Client, method: str, pieces: list[str], query: str, body: bytes, header: str
) -> None:
    path = "/" + "/".join(pieces)
    headers = {
        "authorization": header.strip(),
        "cookie": header.strip(),
        "content-type": "image/png",
    }
    answer = client.request(method, f"{path}?{query}", content=body, headers=headers)
    assert "Traceback" not in answer.text


@few(60)
@given(data=st.data())
def test_a_damaged_image_never_gets_a_verdict_of_a_server_error(
    client: httpx.Client, data: st.DataObject
) -> None:
    body = bytearray(picture_png())
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(1, len(body))) :]
    answer = client.post("/api/v1/detect", content=bytes(body))
    assert answer.status_code in (200, 422)
    found = answer.json()
    assert found["accept"] is (answer.status_code == 200)


def test_every_route_is_documented_or_is_not_rest(client: httpx.Client) -> None:
    assert client.get("/api/openapi.json").json() == _DOCUMENT
    assert len(_OPERATIONS) == 13
