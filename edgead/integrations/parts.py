"""Parts between camera and ejector: each is rejected when it arrives, unless it was found good in time.

The place of a part is a number that only grows while it travels: seconds, or counts of the belt's
encoder. A part enters at its trigger, its verdict comes later, and at ``place + distance`` it is before
the ejector. A part without a verdict then, or with any but GOOD, is rejected; a verdict that comes
afterwards, or for a part that nobody announced, changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from edgead.errors import ConfigError
from edgead.types import Outcome, Verdict

__all__ = ["Decision", "EncoderCount", "PartFifo"]


@dataclass(frozen=True)
class Decision:
    """What the ejector does with one part.

    Attributes:
        part_id: The part's id.
        accept: True only for GOOD in time.
        reason: Why it is rejected; empty when it is accepted.
        place: Where the ejector's window begins, seconds or counts.
    """

    part_id: str
    accept: bool
    reason: str
    place: float


@dataclass
class _Part:
    place: float
    verdict: Verdict | None = None
    reason: str = "NO_VERDICT"


class PartFifo:
    """The parts on their way, in the order of their triggers. Not for several threads at once.

    Args:
        distance: From the trigger to the ejector: seconds (then give seconds everywhere, e.g. of
            ``time.monotonic``), or encoder counts.
        capacity: Parts that can be on their way at once; a part more than that is a trigger gone
            wrong, and the oldest is then rejected at once.

    Attributes:
        unmatched: Outcomes of parts that were not on their way.

    Raises:
        ConfigError: PARTS.
    """

    def __init__(self, *, distance: float, capacity: int = 256) -> None:
        if not (0 < distance < 1e12 and capacity >= 1):
            raise ConfigError(
                "PARTS",
                f"distance is {distance}, capacity {capacity}; want a distance above 0 and room for a part.",
            )
        self._distance = distance
        self._capacity = capacity
        self._parts: OrderedDict[str, _Part] = OrderedDict()
        self._last_place = float("-inf")
        self._ousted: list[Decision] = []
        self.unmatched = 0

    def __len__(self) -> int:
        return len(self._parts)

    def enter(self, part_id: str, place: float) -> None:
        """A part passes the trigger.

        Args:
            part_id: Its id; one that is on its way already makes both rejected, since a verdict
                could belong to either.
            place: Where the belt is now. A place behind the last part's is taken as that part's:
                belts that run back do not bring a part to the ejector earlier.
        """
        self._last_place = max(self._last_place, place)
        if part_id in self._parts:
            self._parts[part_id].verdict = Verdict.UNKNOWN
            self._parts[part_id].reason = "DUPLICATE_ID"
            part_id = f"{part_id} (again at {self._last_place})"
            self._parts[part_id] = _Part(self._last_place, Verdict.UNKNOWN, "DUPLICATE_ID")
        else:
            self._parts[part_id] = _Part(self._last_place)
        if len(self._parts) > self._capacity:
            oldest, part = self._parts.popitem(last=False)
            place = part.place + self._distance
            self._ousted.append(Decision(oldest, False, "OVERFLOW", place))

    def settle(self, outcome: Outcome) -> None:
        """The outcome of a part, by its ``part_id``; the first one counts unless a later is worse."""
        part = self._parts.get(outcome.part_id or "")
        if part is None:
            self.unmatched += 1
            return
        if part.verdict is None or not outcome.accept:
            part.verdict = outcome.verdict
            part.reason = "" if outcome.accept else outcome.reason or outcome.verdict.name

    def due(self, place: float) -> list[Decision]:
        """The parts that have reached the ejector, each exactly once, in order.

        Args:
            place: Where the belt is now.
        """
        found, self._ousted = self._ousted, []
        while self._parts:
            part_id, part = next(iter(self._parts.items()))
            if part.place + self._distance > place:
                break
            del self._parts[part_id]
            accept = part.verdict is Verdict.GOOD
            found.append(Decision(part_id, accept, part.reason, part.place + self._distance))
        return found

    @property
    def next_place(self) -> float | None:
        """Where the belt is when the next part is due; None without one."""
        for part in self._parts.values():
            return part.place + self._distance
        return None


class EncoderCount:
    """Counts of an encoder whose counter wraps around, as one number that does not.

    Args:
        bits: Width of the counter, e.g. 16 for one register, 32 for two.

    Raises:
        ConfigError: PARTS.
    """

    def __init__(self, *, bits: int = 32) -> None:
        if not 1 <= bits <= 64:
            raise ConfigError("PARTS", f"an encoder of {bits} bits; want 1 to 64.")
        self._range = 1 << bits
        self._raw: int | None = None
        self._count = 0

    def __call__(self, raw: int) -> int:
        """The count at a reading; it falls when the belt runs back.

        Args:
            raw: The counter. Between two readings the belt moves less than half the range.
        """
        if self._raw is not None:
            moved = (raw - self._raw) % self._range
            self._count += moved if moved < self._range / 2 else moved - self._range
        self._raw = raw
        return self._count
