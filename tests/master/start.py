"""Starts a master on the stubs: `python -m tests.master.start CONFIG CONTROL WORKERS [worker=|agent=|loader=ENTRY] [PATIENCE=S]...`."""

import sys

from meshproxy.master.main import run
from meshproxy.master.node import Entries
from meshproxy.master.slots import Patience


def main() -> int:
    path, control, workers, *options = sys.argv[1:]
    chosen = dict(option.split("=", 1) for option in options)
    entries = Entries(**{role: chosen.pop(role, f"tests.master.stubs:{default}") for role, default in
                         (("worker", "run_worker"), ("agent", "run_agent"), ("loader", "load"))})
    patience = Patience(**{name: float(value) for name, value in chosen.items()})
    return run(path, None if workers == "-1" else int(workers), control, "debug", entries=entries, patience=patience)


if __name__ == "__main__":
    sys.exit(main())
