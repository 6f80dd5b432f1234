"""What happens to an engine in a forked child: nothing at all.

An inference library's threads do not survive a fork, and its destructors wait for them for ever:
deleting an OpenVINO or ONNX Runtime object in the child hangs. So the child never destroys what it
inherited; the memory is shared with the parent and goes when the child does.
"""

from __future__ import annotations

import ctypes
import os
import weakref

__all__ = ["keep_in_children"]

_owners: weakref.WeakSet[object] = weakref.WeakSet()


def keep_in_children(owner: object) -> None:
    """See that ``owner``, and all that it refers to, is never destroyed in a forked child."""
    _owners.add(owner)


def _make_immortal() -> None:
    for owner in list(_owners):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))


os.register_at_fork(after_in_child=_make_immortal)
