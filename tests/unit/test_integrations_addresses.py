"""One grammar for the addresses of outputs; secrets never show."""

from __future__ import annotations

import pytest

from edgead.errors import ConfigError
from edgead.integrations.addresses import OutputAddress, count, flag, number, text
from edgead.integrations.publisher import open_outputs

SCHEMES = {"mqtt": "MQTT", "modbus": "MODBUS"}
GRAMMAR = (
    "Want scheme://[user:password@]host[:port][/path][?option=value], special characters as %XX."
)


def parsed(uri: str) -> OutputAddress:
    return OutputAddress.parse(uri, schemes=SCHEMES)


def test_every_part() -> None:
    address = parsed("mqtt://li%40ne:se%2Fcret@10.0.0.5:1884/hall%201/line3?queue=5")
    assert (address.scheme, address.host, address.port) == ("mqtt", "10.0.0.5", 1884)
    assert (address.user, address.password) == ("li@ne", "se/cret")
    assert address.path == "hall 1/line3"
    assert address.options({"queue": count}) == {"queue": 5}


def test_nothing_but_a_host() -> None:
    address = parsed("modbus://plc")
    assert (address.host, address.port, address.path) == ("plc", None, "")
    assert (address.user, address.password, address.options({})) == (None, None, {})


def test_secrets_never_show() -> None:
    address = parsed("mqtt://line:hunter22@10.0.0.5/t?password=hunter33")
    for shown in (repr(address), str(address), address.shown):
        assert "hunter" not in shown
        assert "line" not in shown
    assert address.shown == "mqtt://***@10.0.0.5/…"


def test_secrets_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAD_MQTT_USER", "line")
    monkeypatch.setenv("EDGEAD_MQTT_PASSWORD", "hunter22")
    address = parsed("mqtt://broker")
    assert (address.user, address.password) == ("line", "hunter22")
    assert "hunter22" not in repr(address)
    assert parsed("mqtt://other:word@broker").user == "other"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", f"[OUTPUT_ADDRESS] an output's address cannot be read. {GRAMMAR}"),
        ("mqtt://h\n", f"[OUTPUT_ADDRESS] an output's address cannot be read. {GRAMMAR}"),
        ("mqtt://h:99999", f"[OUTPUT_ADDRESS] an output's address cannot be read. {GRAMMAR}"),
        ("mqtt://u:p/w@h", f"[OUTPUT_ADDRESS] an output's address cannot be read. {GRAMMAR}"),
        ("broker", f"[OUTPUT_ADDRESS] the output broker is no address. {GRAMMAR}"),
        (
            "mqt://broker",
            "[OUTPUT_SCHEME] no output speaks 'mqt' (did you mean 'mqtt'?). There are: mqtt, modbus.",
        ),
        ("s7://plc", "[OUTPUT_SCHEME] no output speaks 's7'. There are: mqtt, modbus."),
    ],
)
def test_bad_addresses(uri: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parsed(uri)
    assert str(error.value) == message


READERS = {"queue": count, "hold_s": number, "acknowledge": flag, "ca": text}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "que=3",
            "has no option 'que' (did you mean 'queue'?). There are: queue, hold_s, acknowledge, ca.",
        ),
        ("xyzzy=3", "has no option 'xyzzy'. There are: queue, hold_s, acknowledge, ca."),
        ("queue=0", "has queue='0'; want a whole number above 0. Correct it or leave it out."),
        ("queue=3.5", "has queue='3.5'; want a whole number above 0. Correct it or leave it out."),
        ("hold_s=nan", "has hold_s='nan'; want a number above 0. Correct it or leave it out."),
        ("hold_s=soon", "has hold_s='soon'; want a number above 0. Correct it or leave it out."),
        ("acknowledge=1", "has acknowledge='1'; want yes or no. Correct it or leave it out."),
        ("ca=", "has ca=''; want a text. Correct it or leave it out."),
        ("queue=1&queue=2", "has the option 'queue' twice. Give it once."),
    ],
)
def test_bad_options(query: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parsed(f"modbus://plc?{query}").options(READERS)
    assert str(error.value) == f"[OUTPUT_OPTION] modbus://plc/… {message}"


def test_good_options() -> None:
    found = parsed("modbus://plc?hold_s=1.5&acknowledge=no&ca=%2Fetc%2Fca.pem").options(READERS)
    assert found == {"hold_s": 1.5, "acknowledge": False, "ca": "/etc/ca.pem"}


def test_an_unknown_scheme_by_the_front_door() -> None:
    with pytest.raises(ConfigError, match=r"no output speaks 'htp' \(did you mean 'http'\?\)"):
        open_outputs(["htp://receiver/verdicts"])


def test_no_host() -> None:
    with pytest.raises(ConfigError) as error:
        open_outputs(["http:///verdicts"])
    assert str(error.value) == f"[OUTPUT_ADDRESS] the output http://***/… names no host. {GRAMMAR}"
