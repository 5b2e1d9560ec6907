"""Real neighbours on loopback: nginx, HAProxy, Envoy, statsd. Tests compare with them, benchmarks run beside them."""
