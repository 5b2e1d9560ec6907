"""The same load through meshproxy, nginx, HAProxy and Envoy, in turn, in one run on one machine: `python -m bench --help`."""
