"""Envoy's v3 API to the model: JSON or YAML -> protobuf messages (`reader`) -> model (one file a resource kind).

The only place, with `discovery.xds`, that imports protobuf; nothing imports it before a file turns out to be in Envoy's form.
"""
