"""Bundles by digest: what arrives is what was named, whole and signed, or nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import tiny_bundle, tiny_manifest
from oci_registry import registry

from edgead import Detector
from edgead.bundle import Bundle, read_bundle, write_bundle
from edgead.cli import main
from edgead.errors import BundleError, ConfigError, StorageError
from edgead.integrations.fleet.store import pull, push
from edgead.sign import TRUSTED_KEY, make_keys, write_signature


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.edgead"
    write_bundle(path, tiny_bundle())
    return path


@pytest.fixture(params=["file", "memory", "oci"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a store of each kind."""
    if request.param == "file":
        yield f"file://{tmp_path}/shelf/line 3"
    elif request.param == "memory":
        yield f"memory://{tmp_path.name}/line3"
    else:
        with registry() as held:
            yield f"oci://{held.address}/models/line3"


def other_bundle(path: Path) -> Bundle:
    made = tiny_bundle()
    other = Bundle.build(tiny_manifest(golden=made.manifest.golden, method="slsg"), made.members)
    write_bundle(path, other)
    return other


def test_there_and_back(shelf: str, bundle: Path, tmp_path: Path) -> None:
    stored = push(bundle, shelf)
    digest = read_bundle(bundle).hash
    size = bundle.stat().st_size
    assert stored == {
        "reference": f"{shelf}@sha256:{digest}", "digest": digest, "bytes": size, "signed": False,
    }  # fmt: skip
    out = tmp_path / "line.edgead"
    (tmp_path / "line.edgead.sig").write_text("of an older bundle")
    found = pull(stored["reference"], out)
    assert found == {"bundle": str(out), "digest": digest, "bytes": size, "signed": False}
    assert out.read_bytes() == bundle.read_bytes()
    assert not (tmp_path / "line.edgead.sig").exists()
    with Detector(out) as detector:
        assert detector.bundle.hash == digest
    push(bundle, shelf)  # once more is no error
    other_bundle(bundle)
    assert push(bundle, shelf)["digest"] != digest
    pull(stored["reference"], out)
    assert read_bundle(out).hash == digest


def test_name_by_digest(
    shelf: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = push(bundle, shelf)
    monkeypatch.chdir(tmp_path)
    assert pull(stored["reference"])["bundle"] == f"{stored['digest'][:12]}.edgead"
    assert Path(f"{stored['digest'][:12]}.edgead").exists()


def test_digest_that_is_not_there(shelf: str, bundle: Path, tmp_path: Path) -> None:
    push(bundle, shelf)
    with pytest.raises(StorageError) as error:
        pull(f"{shelf}@sha256:{'0' * 64}", tmp_path / "line.edgead")
    assert error.value.code == "STORE_MISSING"
    assert error.value.message.endswith(f" holds no bundle sha256:{'0' * 64}.")
    assert error.value.hint == "Check URL and digest, or store it: edgead push BUNDLE URL."
    assert not (tmp_path / "line.edgead").exists()


def test_signature_is_asked_for_and_comes_along(
    shelf: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = push(bundle, shelf)
    keys = tmp_path / "line3", tmp_path / "line3.pub"
    make_keys(*keys)
    monkeypatch.setenv(TRUSTED_KEY, str(keys[1]))
    out = tmp_path / "line.edgead"
    with pytest.raises(BundleError) as error:
        pull(stored["reference"], out)
    assert error.value.code == "SIGNATURE_MISSING"
    assert not out.exists()
    with pytest.raises(BundleError) as error:
        push(bundle, shelf)
    assert error.value.code == "SIGNATURE_MISSING"
    write_signature(bundle, stored["digest"], keys[0])
    assert push(bundle, shelf)["signed"] is True
    assert pull(stored["reference"], out)["signed"] is True
    assert read_bundle(out).hash == stored["digest"]
    stranger = tmp_path / "stranger"
    make_keys(stranger, tmp_path / "stranger.pub")
    monkeypatch.setenv(TRUSTED_KEY, str(tmp_path / "stranger.pub"))
    out.unlink()
    with pytest.raises(BundleError) as error:
        pull(stored["reference"], out)
    assert error.value.code == "SIGNATURE_WRONG"
    assert not out.exists()


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("damage", "code"),
    [(_cut, "BUNDLE_DAMAGED"), (_flipped, "BUNDLE_DAMAGED"), (lambda _: b"", "BUNDLE_EMPTY")],
)
def test_what_is_not_whole_never_arrives(
    damage: Callable[[bytes], bytes], code: str, bundle: Path, tmp_path: Path
) -> None:
    shelf, out = tmp_path / "shelf", tmp_path / "line.edgead"
    stored = push(bundle, f"file://{shelf}")
    other_bundle(out)
    before = out.read_bytes()
    there = shelf / f"sha256-{stored['digest']}.edgead"
    there.write_bytes(damage(there.read_bytes()))
    with pytest.raises(BundleError) as error:
        pull(stored["reference"], out)
    assert error.value.code == code
    assert error.value.message.startswith(f"file://{shelf} sha256:{stored['digest'][:12]}…")
    assert out.read_bytes() == before


def test_another_bundle_under_that_name(bundle: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    stored = push(bundle, f"file://{shelf}")
    other = other_bundle(shelf / f"sha256-{stored['digest']}.edgead")
    with pytest.raises(BundleError) as error:
        pull(stored["reference"], tmp_path / "line.edgead")
    assert str(error.value) == (
        f"[DIGEST] file://{shelf} holds bundle {other.hash} under the name of {stored['digest']}; "
        "nothing was written. Store the right one again: edgead push BUNDLE URL."
    )
    assert not (tmp_path / "line.edgead").exists()


def test_too_large(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgead.integrations.fleet import store

    with registry() as held:
        for shelf in (f"file://{tmp_path}/shelf", f"oci://{held.address}/line3"):
            stored = push(bundle, shelf)
            with monkeypatch.context() as patch:
                patch.setattr(store, "_MAX_BYTES", 100)
                with pytest.raises(BundleError) as error:
                    pull(stored["reference"], tmp_path / "line.edgead")
            name = f"sha256-{stored['digest']}.edgead"
            assert str(error.value) == f"[BUNDLE_TOO_LARGE] {shelf}: {name} is over 100 bytes."


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (
            "file:///shelf",
            "[STORE_URL] file:///shelf names no digest; want URL@sha256: and 64 hexadecimal digits. "
            "edgead push prints the reference; edgead inspect prints a bundle's hash.",
        ),
        (
            f"shelf@sha256:{'0' * 64}",
            "[STORE_URL] shelf is no URL; want e.g. file:///shelf, s3://bucket/models or "
            "oci://host/name.",
        ),
        (
            f"nosuch://shelf@sha256:{'0' * 64}",
            "[STORE_URL] fsspec cannot open nosuch://shelf: Protocol not known: nosuch "
            "Install the package it names, or use another store.",
        ),
        (
            f"oci://Host/UPPER@sha256:{'0' * 64}",
            "[STORE_URL] oci://Host/… is no repository; want oci://host/name in lower case. "
            "Credentials come from docker login, never from the address.",
        ),
    ],
)
def test_bad_addresses(
    reference: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        pull(reference)
    assert str(error.value) == text


def test_password_is_never_shown(tmp_path: Path) -> None:
    reference = f"ftp://anna:open-sesame@127.0.0.1:1/shelf@sha256:{'0' * 64}"
    with pytest.raises(StorageError) as error:
        pull(reference, tmp_path / "line.edgead")
    assert error.value.code == "STORE_FAILED"
    assert "open-sesame" not in str(error.value)
    assert error.value.hint == "Check the address, the network and your rights there."


def test_store_that_fails(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "shelf").write_text("a file, no folder")
    with pytest.raises(StorageError) as error:
        push(bundle, f"file://{tmp_path}/shelf")
    assert error.value.code == "STORE_FAILED"
    assert error.value.message.startswith(f"cannot write to file://{tmp_path}/shelf: ")


def test_registry_that_does_not_answer(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import oras.decorator

    with registry() as held:
        address = held.address
    monkeypatch.setattr(oras.decorator.time, "sleep", lambda _: None)  # between its attempts
    with pytest.raises(StorageError) as error:
        push(bundle, f"oci://{address}/line3")
    assert error.value.code == "STORE_FAILED"
    assert error.value.message.startswith(f"cannot write to oci://{address}/line3: ")
    with pytest.raises(StorageError) as error:
        pull(f"oci://{address}/line3@sha256:{'0' * 64}", tmp_path / "line.edgead")
    assert error.value.message.startswith(f"cannot read from oci://{address}/line3: ")


@pytest.mark.parametrize(
    ("module", "url", "text"),
    [
        ("fsspec", "file:///shelf", "[FSSPEC_MISSING] stores need fsspec"),
        ("oras.client", "oci://host/line3", "[ORAS_MISSING] OCI registries need oras"),
    ],
)
def test_packages_that_are_missing(
    module: str, url: str, text: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as error:
        push(bundle, url)
    assert str(error.value).startswith(text)
    assert error.value.hint == "pip install 'edgead[fleet]'"


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["edgead", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_command_line(
    shelf: str,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert _run(monkeypatch, "push", str(bundle), shelf, "--json") == 0
    stored: dict[str, Any] = json.loads(capfd.readouterr().out)
    out = tmp_path / "line.edgead"
    assert _run(monkeypatch, "pull", stored["reference"], "--out", str(out), "--json") == 0
    assert json.loads(capfd.readouterr().out)["digest"] == read_bundle(out).hash
    assert _run(monkeypatch, "pull", f"{shelf}@sha256:{'1' * 64}", "--out", str(out)) == 2
    assert "[STORE_MISSING]" in capfd.readouterr().err
