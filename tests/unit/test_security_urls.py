"""A camera's password is never shown, however odd it is and wherever the address turns up."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from urllib.parse import quote, quote_plus

import pytest
from odd_passwords import odd_passwords

from edgead.errors import SourceError
from edgead.urls import SourceUrl


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:secret@10.0.0.5:554/stream", "rtsp://***@10.0.0.5:554/…"),
        ("rtsp://user:se@cret@cam/", "rtsp://***@cam"),
        ("rtsp://user:se/cret@cam/x", "rtsp://***"),
        ("rtsp://10.0.0.5/user=admin_password=secret_channel=1", "rtsp://10.0.0.5/…"),
        ("http://[::1]:80/mjpg?token=secret", "http://[::1]:80/…"),
        ("rtsp://10.0.0.5", "rtsp://10.0.0.5"),
        ("user:secret@cam/x", "***"),
        ("rtsp:/user:secret@cam", "***"),
        ("file:///data/line.mp4", "file:///data/line.mp4"),
        ("/data/cam@1/line.mp4", "/data/cam@1/line.mp4"),
        ("/dev/video0", "/dev/video0"),
        ("0", "0"),
        ("rtspsrc location=rtsp://u:secret@10.0.0.5/s ! appsink", "***"),
        ("rtspsrc location=rtsp://10.0.0.5/s user-id=u user-pw=secret ! appsink", "***"),
        ("videotestsrc ! appsink", "videotestsrc ! appsink"),
    ],
)
def test_shown_form(address: str, shown: str) -> None:
    url = SourceUrl(address)
    assert str(url) == shown
    assert repr(url) == f"SourceUrl({shown!r})"
    assert url.reveal() == address


@pytest.mark.parametrize("place", ["userinfo", "encoded", "path", "query", "typing error"])
def test_500_odd_passwords_appear_nowhere(place: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for password in odd_passwords(100):
        in_url = quote(password, safe="")
        address = {
            "userinfo": f"rtsp://admin:{password}@10.0.0.5:554/ch1",
            "encoded": f"rtsp://admin:{in_url}@10.0.0.5:554/ch1",
            "path": f"rtsp://10.0.0.5/user=admin_password={in_url}_channel=1",
            "query": f"rtsp://10.0.0.5/ch1?user=admin&password={in_url}&x=1",
            "typing error": f"rtsp:/admin:{password}@10.0.0.5/ch1",
        }[place]
        url = SourceUrl(address)
        native = [
            f"Could not open {address}: 401",
            f"bad option '{password}'",
            f"cannot resolve {address.partition('//')[2]}",
            json.dumps({"url": address}),
            repr(address),
            f"auth failed for admin:{quote_plus(password)}",
        ]
        try:
            raise SourceError("SOURCE_AUTH", f"{url}: {url.scrub(native[0])}")
        except SourceError as error:
            texts = [str(error), repr(error), *traceback.format_exception(error)[-1:]]
        logging.getLogger("edgead.test").warning("reopening %s %r", url, {"source": url})
        texts += [str(url), repr(url), f"{url}", f"{url!r}", *map(url.scrub, native), caplog.text]
        for text in texts:
            for form in (password, in_url, quote_plus(password)):
                assert form not in text
        assert SourceUrl(url) == url
        assert pickle.loads(pickle.dumps(url)).reveal() == address
        assert str(pickle.loads(pickle.dumps(url))) == str(url)


@pytest.mark.parametrize(
    "form",
    [
        "admin:{}@10.0.0.5/ch1",
        "rtsp:/admin:{}@10.0.0.5/ch1",
        "rtps://admin:{}@10.0.0.5/ch1",
        "ftp://admin:{}@10.0.0.5/ch1",
        "admin:{}@10.0.0.5/*.png",
        "file:///data/admin:{}@10.0.0.5.png",
    ],
)
def test_addresses_that_are_no_source_do_not_show_it_either(form: str) -> None:
    from edgead.stream.sources.uri import parse_source

    for password in odd_passwords(40):
        password = password.replace("/", "x")
        with pytest.raises(SourceError) as error:
            parse_source(form.format(password))
        shown = "".join(traceback.format_exception(error.value))
        assert password not in str(error.value) or form.startswith("file")
        assert form.startswith("file") or password not in shown.replace(form.format(password), "")


def test_a_pipelines_password_is_scrubbed() -> None:
    url = SourceUrl('rtspsrc location=rtsp://10.0.0.5/s user-pw="open sesame" ! appsink')
    assert "open sesame" not in url.scrub("could not link: user-pw=open sesame")


def test_short_password_withholds_the_text() -> None:
    url = SourceUrl("rtsp://user:abc@cam/x")
    assert url.scrub("tried abc") == "(text withheld: it may hold the password)"
    assert url.scrub("timeout") == "timeout"


def test_scrub_leaves_other_text_alone() -> None:
    url = SourceUrl("rtsp://user:secret@cam/stream")
    assert url.scrub("timed out after 2 s (user, cam)") == "timed out after 2 s (user, cam)"


@pytest.mark.parametrize("address", ["", "rtsp://u:secret@h/\r\nX: y", "rtsp://h/\0"])
def test_control_characters_are_refused_without_showing_the_address(address: str) -> None:
    with pytest.raises(SourceError) as error:
        SourceUrl(address)
    assert str(error.value) == (
        "[SOURCE_URL] the source address is empty or holds control characters. "
        "Give a URL, a file or a device, e.g. rtsp://user:password@10.0.0.5/stream."
    )


def test_network_or_not() -> None:
    assert SourceUrl("RTSP://cam/x").scheme == "rtsp"
    assert SourceUrl("rtsp://cam").is_network
    assert not SourceUrl("file:///x").is_network
    assert not SourceUrl("v4l2:///dev/video0").is_network
    assert len({SourceUrl("rtsp://cam"), SourceUrl("rtsp://cam")}) == 1
