"""An exception in the reader's thread at any moment: see `struck_stream`, which runs alone.

It raises in the middle of whatever Python does. Between a hundred other tests that would include the
destructors of other libraries' objects, which are not edgead's to keep sound.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_STRUCK = Path(__file__).parent.parent / "struck_stream.py"


@pytest.mark.timeout(900)
def test_struck_at_any_moment_a_stream_stays_sound() -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(_STRUCK)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "15 passed" in done.stdout
