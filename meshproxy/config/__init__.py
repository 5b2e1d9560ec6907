"""Two front doors, one model: short native YAML and Envoy's v3 bootstrap become a `Snapshot`; `load.load` is the way in.

Everything wrong in a file is told at once, each problem with its file, line, field path and remedy.
"""
