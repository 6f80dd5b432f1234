"""What the OPC UA server shows: names and meanings of OPC 40100-1, in a namespace of our own.

Taken over: the names ResultManagement, Results and ResultReadyEventType, the fields of ResultDataType
that edgead has values for, with their meaning, and the numbers of ResultState; ResultEvaluation with
the numbers of OPC 40001-101. Not there: the companion specification's own namespace and node ids, its
structured data types (an id is a plain string here), the state machine, recipe and configuration
management, GetResultById and the other methods, and the transfer of files.

Source: OPC 40100-1 Machine Vision 1.0, 7.10 (ResultManagementType), 8.3.8.4 (ResultReadyEventType),
12.17 (ResultDataType), 12.19 (ResultStateDataType).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

from edgead.integrations.output import LineState, Result
from edgead.types import Status, Verdict

__all__ = ["FIELDS", "NAMESPACE", "REJECTED", "fields_of"]

NAMESPACE = "urn:edgead:machine-vision"
EVENT_TYPE = "ResultReadyEventType"

#: Field of a result -> name of its ua.VariantType and its value before the first result.
FIELDS: Mapping[str, tuple[str, Any]] = MappingProxyType(
    {
        "ResultId": ("String", ""),
        "IsPartial": ("Boolean", False),
        "IsSimulated": ("Boolean", False),
        "ResultState": ("Int32", 0),
        "MeasId": ("String", ""),
        "PartId": ("String", ""),
        "InternalRecipeId": ("String", ""),
        "InternalConfigurationId": ("String", ""),
        "JobId": ("String", ""),
        "CreationTime": ("DateTime", datetime(1970, 1, 1, tzinfo=timezone.utc)),
        "ResultEvaluation": ("Int32", 0),
        "Verdict": ("String", "UNKNOWN"),
        "Score": ("Double", math.nan),
        "Threshold": ("Double", math.nan),
        "Reason": ("String", ""),
        "FrameId": ("String", ""),
        "Number": ("UInt32", 0),
    }
)
#: What takes the place of a result that must not be relied on any more.
REJECTED: Mapping[str, Any] = MappingProxyType({"ResultEvaluation": 0, "Verdict": "UNKNOWN"})

_STATE = {Status.RESULT: 1, Status.DROPPED: 3, Status.FAILED: 4}
#: Undefined, OK, not OK: the verdict's own numbers.
_EVALUATION = {Verdict.UNKNOWN: 0, Verdict.GOOD: 1, Verdict.DEFECT: 2}


def fields_of(result: Result) -> dict[str, Any]:
    """A value for each of `FIELDS`."""
    outcome = result.outcome
    found = outcome.detection
    # The wall clock is a label only; nothing is decided by it.
    age = timedelta(microseconds=(time.monotonic_ns() - outcome.settled_mono_ns) / 1e3)
    return {
        "ResultId": result.id,
        "IsPartial": False,
        "IsSimulated": outcome.is_simulated,
        "ResultState": _STATE[outcome.status],
        "MeasId": outcome.trigger_id or "",
        "PartId": outcome.part_id or "",
        "InternalRecipeId": "" if found is None else found.bundle_hash,
        "InternalConfigurationId": "" if found is None else f"{found.backend}/{found.precision}",
        "JobId": result.session,
        "CreationTime": datetime.now(timezone.utc) - age,
        "ResultEvaluation": _EVALUATION[outcome.verdict],
        "Verdict": outcome.verdict.name,
        "Score": math.nan if found is None else found.score,
        "Threshold": math.nan if found is None else found.threshold,
        "Reason": outcome.reason,
        "FrameId": outcome.frame_id,
        "Number": result.number,
    }


class Model:
    """The nodes below ``Objects/VisionSystem`` of one server.

    Args:
        server: An asyncua server after ``init``.
        ua: The module ``asyncua.ua``.
    """

    def __init__(self, server: Any, ua: Any) -> None:
        self._server = server
        self._ua = ua
        self._nodes: dict[str, Any] = {}
        self._events: list[Any] = []
        self._is_shown = False
        self._state = LineState.OFFLINE
        self._heartbeat = False

    async def build(self) -> None:
        """Add the nodes and the type of the event."""
        server, ua = self._server, self._ua
        index = await server.register_namespace(NAMESPACE)
        system = await server.nodes.objects.add_object(index, "VisionSystem")
        management = await system.add_object(index, "ResultManagement")
        results = await management.add_folder(index, "Results")
        kinds = {name: getattr(ua.VariantType, kind) for name, (kind, _) in FIELDS.items()}
        latest = await results.add_object(index, "Result")
        for name, (_, value) in FIELDS.items():
            self._nodes[name] = await _variable(latest, index, name, value, kinds[name])
        state = ua.VariantType.Int32
        self._nodes["State"] = await _variable(system, index, "State", 0, state)
        beat = ua.VariantType.Boolean
        self._nodes["Heartbeat"] = await _variable(system, index, "Heartbeat", False, beat)
        kind = await server.create_custom_event_type(
            index, EVENT_TYPE, ua.ObjectIds.BaseEventType, list(kinds.items())
        )
        # Many clients can subscribe to events of the Server object only.
        for source in (ua.NodeId(ua.ObjectIds.Server), system.nodeid):
            self._events.append(await server.get_event_generator(kind, source))

    async def show(self, result: Result) -> None:
        """Write a result's fields and fire its event."""
        fields = fields_of(result)
        for name, value in fields.items():
            await self._write(name, value)
        self._is_shown = True
        for source in self._events:
            for name, value in fields.items():
                setattr(source.event, name, value)
            source.event.Severity = 1
            await source.trigger(message=f"{fields['FrameId']}: {fields['Verdict']}")

    async def beat(self, state: LineState) -> None:
        """Toggle while ONLINE; else take the last result back."""
        if state is not self._state:
            self._state = state
            await self._write("State", int(state))
        if state is LineState.ONLINE:
            self._heartbeat = not self._heartbeat
            await self._write("Heartbeat", self._heartbeat)
        elif self._is_shown:
            self._is_shown = False
            for name, value in REJECTED.items():
                await self._write(name, value)

    async def _write(self, name: str, value: Any) -> None:
        kind = FIELDS[name][0] if name in FIELDS else _KINDS[name]
        variant = self._ua.Variant(value, getattr(self._ua.VariantType, kind))
        now = datetime.now(timezone.utc)
        data = self._ua.DataValue(variant, SourceTimestamp=now, ServerTimestamp=now)
        await self._server.write_attribute_value(self._nodes[name].nodeid, data)


_KINDS = {"State": "Int32", "Heartbeat": "Boolean"}


async def _variable(parent: Any, index: int, name: str, value: Any, kind: Any) -> Any:
    """A variable that clients may read and not write; its node id is its name."""
    return await parent.add_variable(f"ns={index};s={name}", f"{index}:{name}", value, kind)
