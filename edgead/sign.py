"""Ed25519 signatures of bundles: who made this file, beside the hashes that say it is whole.

The signature of ``part.edgead`` is the file ``part.edgead.sig`` beside it, so that signing changes
neither the bundle nor its hash. What is signed is the bundle hash, which covers every member. Where
the environment variable ``EDGEAD_TRUSTED_KEY`` names a public key, no unsigned bundle is opened.

Source: RFC 8032 (Ed25519), by the ``cryptography`` package; keys are PEM files.
"""

from __future__ import annotations

import errno
import importlib
import os
from pathlib import Path
from typing import Any

from edgead import files
from edgead.errors import BundleError, ConfigError

__all__ = ["check_signature", "make_keys", "signature_path", "trusted_key", "write_signature"]

TRUSTED_KEY = "EDGEAD_TRUSTED_KEY"
#: Keeps a signature of ours from meaning anything elsewhere.
_CONTEXT = b"edgead bundle signature 1\n"
_MAX_KEY_BYTES = 1 << 14


def signature_path(bundle: str | Path) -> Path:
    """Where the signature of a bundle lies."""
    return Path(f"{bundle}.sig")


def trusted_key() -> Path | None:
    """Public key that bundles must be signed with, or None where none is configured."""
    configured = os.environ.get(TRUSTED_KEY, "")
    return Path(configured) if configured else None


def make_keys(private: str | Path, public: str | Path) -> None:
    """Write a new key pair; the private key is readable by its owner alone.

    Raises:
        ConfigError: KEY_EXISTS; CRYPTOGRAPHY_MISSING.
        StorageError: A file cannot be written.
    """
    for path in (private, public):
        if Path(path).exists():
            raise ConfigError(
                "KEY_EXISTS", f"{path} exists; a key is never overwritten.", "Give another name."
            )
    serialization, ed25519 = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    shared = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    files.write_bytes(private, secret, mode=0o600)
    files.write_bytes(public, shared)


def write_signature(bundle: str | Path, bundle_hash: str, private_key: str | Path) -> Path:
    """Sign a bundle's hash; write and return ``<bundle>.sig``.

    Args:
        bundle: The bundle's file.
        bundle_hash: Its hash, from reading it: `edgead.bundle.Bundle.hash`.
        private_key: PEM file of an Ed25519 private key without a passphrase.

    Raises:
        ConfigError: KEY or CRYPTOGRAPHY_MISSING.
        StorageError: The signature cannot be written.
    """
    key = _load(private_key, private=True)
    target = signature_path(bundle)
    files.write_text(target, key.sign(_CONTEXT + bundle_hash.encode()).hex() + "\n")
    return target


def check_signature(bundle: str | Path, bundle_hash: str, public_key: str | Path) -> None:
    """Refuse a bundle that the owner of ``public_key`` did not sign.

    Raises:
        BundleError: SIGNATURE_MISSING or SIGNATURE_WRONG.
        ConfigError: KEY or CRYPTOGRAPHY_MISSING.
    """
    key = _load(public_key, private=False)
    path = signature_path(bundle)
    try:
        text = files.read_bytes(path, max_bytes=1024)
    except FileNotFoundError as error:
        raise BundleError(
            "SIGNATURE_MISSING",
            f"{bundle} is not signed ({path.name} is missing); {public_key} is required.",
            "Sign it where it was made: edgead sign B --key PRIVATE.",
        ) from error
    except OSError as error:
        raise _wrong(bundle, public_key, f"cannot read {path}: {error.strerror}") from error
    try:
        # Strict: one line of 128 lower-case digits, so that a signature has one spelling.
        signature = bytes.fromhex(text.decode("ascii"))
        if len(signature) != 64 or text != signature.hex().encode() + b"\n":
            raise ValueError("not 128 hexadecimal digits and a line end")
    except ValueError as error:
        raise _wrong(bundle, public_key, f"{path.name} is damaged") from error
    invalid = importlib.import_module("cryptography.exceptions").InvalidSignature
    try:
        key.verify(signature, _CONTEXT + bundle_hash.encode())
    except invalid as error:
        raise _wrong(bundle, public_key, "the signature is of another bundle or key") from error


def _wrong(bundle: str | Path, key: str | Path, why: str) -> BundleError:
    return BundleError(
        "SIGNATURE_WRONG",
        f"{bundle} is not the bundle that the owner of {key} signed: {why}.",
        "Copy bundle and signature again from where they were made.",
    )


def _load(path: str | Path, *, private: bool) -> Any:
    serialization, ed25519 = _cryptography()
    kind = "private" if private else "public"
    wanted = ed25519.Ed25519PrivateKey if private else ed25519.Ed25519PublicKey
    try:
        data = files.read_bytes(path, max_bytes=_MAX_KEY_BYTES)
        if private:
            key = serialization.load_pem_private_key(data, password=None)
        else:
            key = serialization.load_pem_public_key(data)
    except OSError as error:
        reason = "does not exist" if error.errno == errno.ENOENT else error.strerror
        raise ConfigError(
            "KEY", f"key file {path}: {reason}.", "Make one: edgead sign B --new-key NAME."
        ) from error
    except Exception as error:  # cryptography raises several types for what is no key
        raise ConfigError(
            "KEY", f"{path} is not a PEM {kind} key without a passphrase.", "Make a new pair."
        ) from error
    if not isinstance(key, wanted):
        raise ConfigError("KEY", f"{path} is not an Ed25519 {kind} key.", "Make a new pair.")
    return key


def _cryptography() -> tuple[Any, Any]:
    try:
        return (
            importlib.import_module("cryptography.hazmat.primitives.serialization"),
            importlib.import_module("cryptography.hazmat.primitives.asymmetric.ed25519"),
        )
    except ImportError as error:
        raise ConfigError(
            "CRYPTOGRAPHY_MISSING",
            f"signatures need the cryptography package, which does not import ({error}).",
            "pip install 'edgead[sign]'",
        ) from error
