"""MQTT: every outcome at QoS 1 in order, a retained state with a last will, a heartbeat.

======================  ==========================================================================
``TOPIC``               the JSON line of ``edgead run``, QoS 1
``TOPIC/state``         ``online``, ``stalled`` or ``offline``, retained, QoS 1; ``offline`` is also
                        the last will
``TOPIC/heartbeat``     ``0`` and ``1`` in turn, five a second while verdicts are fresh, QoS 0
======================  ==========================================================================

QoS 1 is at least once: after a lost connection a subscriber may see a result again, with the same
``frame_id``; never one before an older one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import sys
import threading
from typing import Any

from edgead.errors import ConfigError, OutputError
from edgead.integrations.addresses import OutputAddress, count, text
from edgead.integrations.output import LineState, Output, Result, library

__all__ = ["MqttOutput", "output_from_address"]

#: Results on their way to the broker before the first is acknowledged.
_WINDOW = 20
_KEEPALIVE_S = 10
_CLOSE_S = 1.0
#: The state is repeated every so many beats: a will of an older connection may come late.
_STATE_BEATS = 25


class MqttOutput(Output):
    """Publishes to an MQTT 3.1.1 broker; a lost broker is tried again for ever.

    Args:
        host: The broker.
        name: As shown, without secrets.
        topic: Of the results; state and heartbeat lie below it.
        port: None: 1883, or 8883 with TLS.
        user: None for none.
        password: Likewise.
        tls: Encrypt, and check the broker's certificate.
        ca: File of certificates to trust, PEM; None: the system's.
        certificate: Our own certificate, PEM, where the broker wants one.
        key: Its key, PEM.
        queue: Results that may wait for the broker.

    Source: MQTT 3.1.1 (OASIS), 3.1.2.5 (will), 4.3.2 (QoS 1), 4.6 (order).
    """

    def __init__(
        self,
        host: str,
        *,
        name: str,
        topic: str = "edgead",
        port: int | None = None,
        user: str | None = None,
        password: str | None = None,
        tls: bool = False,
        ca: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
        queue: int = Output.queue,
    ) -> None:
        super().__init__(name)
        if "+" in topic or "#" in topic:
            text = f"{name}: the topic holds + or #, which only subscribers may use."
            raise ConfigError(
                "OUTPUT_ADDRESS", text, "Give a plain topic, e.g. hall1/line3/camera1."
            )
        self.queue = queue
        self.topic = topic
        self._host, self._port = host, port or (8883 if tls else 1883)
        self._login = (user, password)
        self._tls = (ca, certificate, key) if tls else None
        self._client: Any = None
        self._state = LineState.OFFLINE
        self._beats = 0
        # `_gate` is held while a result is given to the client; no callback of the client that
        # runs under the client's own locks takes it. `_books` is the innermost lock.
        self._gate = threading.Lock()
        self._may_send = False
        self._is_connected = False
        self._books = threading.Condition()
        self._kinds: dict[int, bool] = {}
        self._early: set[int] = set()
        self._pending = 0
        self._gone = threading.Event()

    def open(self) -> None:
        """Begin to connect; the first answer is not waited for."""
        paho = library("paho.mqtt.client", "plc")
        # The same after a restart: the broker then publishes the old connection's will before
        # the new one's state, never after it.
        identity = hashlib.sha256(f"{socket.gethostname()} {self.topic}".encode()).hexdigest()
        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=f"edgead{identity[:16]}",
            protocol=paho.MQTTv311,
        )
        if self._login[0] is not None:
            client.username_pw_set(*self._login)
        if self._tls is not None:
            ca, certificate, key = self._tls
            try:
                client.tls_set(ca_certs=ca, certfile=certificate, keyfile=key)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                files = ", ".join(name for name in self._tls if name)
                raise OutputError(
                    "MQTT_TLS",
                    f"{self.name}: cannot use the certificates ({files}): {reason}.",
                    "Give readable PEM files: ca=…, certificate=… and key=….",
                ) from error
        client.will_set(f"{self.topic}/state", "offline", qos=1, retain=True)
        client.reconnect_delay_set(min_delay=1, max_delay=8)
        client.connect_timeout = 3.0
        client.max_inflight_messages_set(0)  # bounded here, by _WINDOW
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.connect_async(self._host, self._port, keepalive=_KEEPALIVE_S)
        client.loop_start()
        self._client = client

    def send(self, result: Result, wait_s: float) -> bool:
        """Give a result to the client once the broker is there and the window has room."""
        payload = json.dumps(result.outcome.to_json())
        with self._books:
            if not self._books.wait_for(self._has_room, wait_s):
                return False
        with self._gate:
            if not self._may_send:
                return False
            with self._books:
                self._pending += 1
            self._publish(self.topic, payload, is_result=True)
        return True

    def beat(self, state: LineState) -> None:
        """Publish a changed state, and the heartbeat while ONLINE."""
        is_due = state is not self._state or self._beats % _STATE_BEATS == 0
        self._state = state
        if not self._is_connected:
            return
        if is_due:
            self._publish(f"{self.topic}/state", state.name.lower(), is_result=False)
        self._beats += 1
        if state is LineState.ONLINE:
            self._client.publish(f"{self.topic}/heartbeat", str(self._beats % 2), qos=0)

    def close(self) -> None:
        """Publish ``offline`` and leave the broker."""
        client, self._client = self._client, None
        if client is None:
            return
        self._state = LineState.OFFLINE
        if self._is_connected:
            info = client.publish(f"{self.topic}/state", "offline", qos=1, retain=True)
            # Refused when the connection went just now: the will then says the same.
            with contextlib.suppress(RuntimeError, ValueError):
                info.wait_for_publish(_CLOSE_S)
            client.disconnect()
            self._gone.wait(_CLOSE_S)
        # A connection that hangs would hold loop_stop: the client's thread is a daemon.
        ending = threading.Thread(target=client.loop_stop, name="edgead mqtt end", daemon=True)
        ending.start()
        ending.join(_CLOSE_S)

    def _has_room(self) -> bool:
        return self._may_send and self._pending < _WINDOW

    def _publish(self, topic: str, payload: str, *, is_result: bool) -> None:
        mid = self._client.publish(topic, payload, qos=1, retain=not is_result).mid
        with self._books:
            if mid in self._early:  # acknowledged before publish returned
                self._early.discard(mid)
                self._settle(is_result)
            else:
                self._kinds[mid] = is_result

    def _settle(self, is_result: bool) -> None:
        """An acknowledgement has come. Called under `_books`."""
        if is_result:
            self._pending -= 1
            self.delivered += 1
        # Results that waited for an acknowledgement when the connection broke are sent again by
        # the client; a new one must not overtake them.
        if self._is_connected and self._pending == 0:
            self._may_send = True
        self._books.notify_all()

    def _on_publish(self, _client: Any, _data: Any, mid: int, *_: Any) -> None:
        with self._books:
            is_result = self._kinds.pop(mid, None)
            if is_result is None:
                self._early.add(mid)
            else:
                self._settle(is_result)

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, *_: Any) -> None:
        if reason.is_failure:
            hint = "Check user and password, in the address or in EDGEAD_MQTT_USER and _PASSWORD."
            self.note(OutputError("MQTT_REFUSED", f"{self.name} refuses: {reason}.", hint))
            return
        self.note(None)
        with self._books:
            self._is_connected = True
            self._may_send = self._pending == 0
            self._beats = 0  # the state is due: a broker that restarted may have lost it
            self._books.notify_all()

    def _on_connect_fail(self, *_: Any) -> None:
        error = sys.exc_info()[1]  # the client calls this from its except clause
        self._note_unreachable(f"does not answer: {getattr(error, 'strerror', None) or error}")

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, *_: Any) -> None:
        with self._gate, self._books:
            was_connected, self._is_connected = self._is_connected, False
            self._may_send = False
        self._gone.set()
        if was_connected and reason.is_failure:
            self._note_unreachable("was lost")

    def _note_unreachable(self, what: str) -> None:
        hint = f"Results wait, at most {self.queue}, and are sent when it is back."
        self.note(OutputError("MQTT_UNREACHABLE", f"{self.name} {what}.", hint))


def output_from_address(address: OutputAddress) -> MqttOutput:
    """``mqtt://[user:password@]broker[:port][/topic]``; ``mqtts`` encrypts.

    Raises:
        ConfigError: OUTPUT_ADDRESS, OUTPUT_OPTION.
    """
    address.require_host()
    readers: dict[str, Any] = {"queue": count}
    if address.scheme == "mqtts":
        readers |= {"ca": text, "certificate": text, "key": text}
    return MqttOutput(
        address.host,
        name=address.shown,
        topic=address.path or "edgead",
        port=address.port,
        user=address.user,
        password=address.password,
        tls=address.scheme == "mqtts",
        **address.options(readers),
    )
