"""Where a key is configured, only bundles that its owner signed are opened."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
from bundles import tiny_bundle

from edgead import sign
from edgead.bundle import Bundle, read_bundle, write_bundle
from edgead.errors import BundleError, ConfigError


class _Signed:
    def __init__(self, folder: Path) -> None:
        self.private, self.public = folder / "key", folder / "key.pub"
        sign.make_keys(self.private, self.public)
        self.path = folder / "part.edgead"
        self.bundle = tiny_bundle()
        write_bundle(self.path, self.bundle)
        self.signature = sign.write_signature(self.path, self.bundle.hash, self.private)

    def read(self) -> Bundle:
        return read_bundle(self.path)


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Signed:
    made = _Signed(tmp_path)
    monkeypatch.setenv(sign.TRUSTED_KEY, str(made.public))
    return made


def _refusal(signed: _Signed) -> str:
    with pytest.raises(BundleError) as error:
        signed.read()
    return str(error.value)


def _wrong(signed: _Signed, why: str) -> str:
    return (
        f"[SIGNATURE_WRONG] {signed.path} is not the bundle that the owner of {signed.public} "
        f"signed: {why}. Copy bundle and signature again from where they were made."
    )


def test_signed_bundle_is_read_and_the_private_key_is_private(signed: _Signed) -> None:
    assert signed.read() == signed.bundle
    assert stat.S_IMODE(signed.private.stat().st_mode) == 0o600
    assert signed.signature == signed.path.with_name("part.edgead.sig")


def test_missing_signature(signed: _Signed) -> None:
    signed.signature.unlink()
    assert _refusal(signed) == (
        f"[SIGNATURE_MISSING] {signed.path} is not signed (part.edgead.sig is missing); "
        f"{signed.public} is required. Sign it where it was made: edgead sign B --key PRIVATE."
    )


def test_without_a_key_nothing_is_asked_for(
    signed: _Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed.signature.unlink()
    monkeypatch.setenv(sign.TRUSTED_KEY, "")
    assert signed.read() == signed.bundle


def test_another_bundle_under_the_same_signature(signed: _Signed) -> None:
    write_bundle(signed.path, tiny_bundle(**{"calibration.json": b"{}"}))
    assert _refusal(signed) == _wrong(signed, "the signature is of another bundle or key")


def test_another_key(signed: _Signed, tmp_path: Path) -> None:
    sign.make_keys(tmp_path / "other", tmp_path / "other.pub")
    sign.write_signature(signed.path, signed.bundle.hash, tmp_path / "other")
    assert _refusal(signed) == _wrong(signed, "the signature is of another bundle or key")


def test_every_byte_of_the_signature_counts(signed: _Signed) -> None:
    whole = signed.signature.read_bytes()
    for index in range(len(whole)):
        for change in (whole[index] ^ 1, whole[index] ^ 0x20):
            damaged = bytearray(whole)
            damaged[index] = change
            signed.signature.write_bytes(bytes(damaged))
            assert _refusal(signed).startswith("[SIGNATURE_WRONG]")
    for text in (whole[:-1], whole + b"\n", b"", whole.upper(), whole * 20):
        signed.signature.write_bytes(text)
        assert _refusal(signed).startswith("[SIGNATURE_WRONG]")


def test_keys_that_are_none(
    signed: _Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("hello")
    for key, message in [
        (
            tmp_path / "no.pub",
            f"[KEY] key file {tmp_path}/no.pub: does not exist. "
            "Make one: edgead sign B --new-key NAME.",
        ),
        (
            rubbish,
            f"[KEY] {rubbish} is not a PEM public key without a passphrase. Make a new pair.",
        ),
        (
            signed.private,
            f"[KEY] {signed.private} is not a PEM public key without a passphrase. "
            "Make a new pair.",
        ),
    ]:
        monkeypatch.setenv(sign.TRUSTED_KEY, str(key))
        with pytest.raises(ConfigError) as error:
            signed.read()
        assert str(error.value) == message


def test_another_kind_of_key(signed: _Signed, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import x25519

    other = tmp_path / "x25519.pub"
    other.write_bytes(
        x25519.X25519PrivateKey.generate()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ConfigError) as error:
        sign.check_signature(signed.path, signed.bundle.hash, other)
    assert str(error.value) == f"[KEY] {other} is not an Ed25519 public key. Make a new pair."


def test_a_key_is_never_overwritten(signed: _Signed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        sign.make_keys(signed.private, tmp_path / "new.pub")
    assert str(error.value) == (
        f"[KEY_EXISTS] {signed.private} exists; a key is never overwritten. Give another name."
    )


def test_package_missing_names_the_extra(signed: _Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)
    with pytest.raises(ConfigError) as error:
        signed.read()
    assert error.value.code == "CRYPTOGRAPHY_MISSING"
    assert error.value.hint == "pip install 'edgead[sign]'"
