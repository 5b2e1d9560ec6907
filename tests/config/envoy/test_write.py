"""What Envoy's API can say is written in it and read again; stock Envoy takes what is written."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, Phase, given, settings

from meshproxy.config.envoy import write
from meshproxy.config.load import load_text
from meshproxy.model import Snapshot
from tests.config.snapshots import snapshots

LITTLE = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
"""A failure is told as it was found: to look for a smaller one among whole configurations takes minutes."""


@LITTLE
@given(snapshots(envoy=True))
def test_round_trip(snapshot: Snapshot) -> None:
    data, lost = write.to_data(snapshot)

    assert lost == []
    assert load_text(json.dumps(data), {}).snapshot == snapshot


def test_what_envoy_cannot_say_is_listed() -> None:
    text = """
workers: 3
log_level: debug
statsd: {address: 127.0.0.1:8125, transport: tcp}
listeners:
- name: in
  address: 127.0.0.1:80
  max_connections: 5
  access_log: {to: syslog, path: /dev/log}
  http: {max_body: 1MiB}
  filters: {python: "a.b:C"}
  respond: {status: 200, content_type: text/html}
"""
    _, lost = write.to_data(load_text(text, {}).snapshot)

    for word in ("workers", "log_level", "statsd", "max_connections", "syslog", "max_body", 'filter "C"', "text/html"):
        assert any(word in line for line in lost), word
