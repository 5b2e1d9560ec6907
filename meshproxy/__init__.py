"""meshproxy: a service mesh for fleets of virtual machines. `docs/` tells how it works; `cli/` is where it starts."""

__version__ = "0.1.0"
