"""`python -m bench`: measure, print tables, write JSON."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import attacks, changes, idle, report, rounds
from bench.loads import ALL_LOADS, ATTACKS, CHANGES, IDLE, LOADS, START
from bench.stage import PEERS
from tests.peers.process import PeerFailedError, PeerMissingError


def names(allowed: list[str]) -> Any:
    """A parser of comma-separated names."""

    def parse(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",") if name.strip()]
        for name in chosen:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"there is no {name!r}: choose from {', '.join(allowed)}")
        return chosen

    return parse


def arguments() -> argparse.Namespace:
    listed = "\n".join([
        *(f"  {load.name:16} {load.about}" for load in LOADS.values()),
        f"  {IDLE:16} memory of 10,000 idle keep-alive connections",
        f"  {START:16} time to the first answer, memory of the idle tree with two workers",
        *(f"  {name:16} {about}" for name, about in CHANGES.items()),
        f"  {ATTACKS:16} what other clients of meshproxy suffer from floods, slow clients and half-open handshakes",
    ])  # fmt: skip
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, epilog=f"loads:\n{listed}\n\npeers: {', '.join(PEERS)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--loads", type=names(ALL_LOADS), default=ALL_LOADS, help="comma-separated; default: all")
    parser.add_argument("--peers", type=names(PEERS), default=PEERS, help="comma-separated; default: all")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each timed run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each load and peer (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write everything there too (- = standard output)")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    return parser.parse_args()


def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Run what was asked for, printing each table when it is there."""
    tell = (lambda line: None) if options.quiet else (lambda line: print(line, file=sys.stderr))
    out = sys.stderr if options.json == "-" else sys.stdout
    measured: dict[str, list[rounds.Row]] = {}
    more: dict[str, Any] = {}
    for name in options.loads:
        if name == IDLE:
            more[IDLE] = idle.idle_connections(directory / IDLE, options.peers)
            print(report.idle_table(more[IDLE]), end="\n\n", file=out, flush=True)
        elif name == START:
            more[START] = idle.start(directory / START, options.peers, options.rounds)
            print(report.start_table(more[START]), end="\n\n", file=out, flush=True)
        elif name in CHANGES:
            more[name] = changes.run(directory / name, name, options.seconds, options.rounds, tell)
            print(report.change_table(name, more[name]), end="\n\n", file=out, flush=True)
        elif name == ATTACKS:
            more[ATTACKS] = attacks.run(directory / ATTACKS, options.seconds, tell)
            print(report.attack_table(more[ATTACKS]), end="\n\n", file=out, flush=True)
        else:
            measured[name] = rounds.run(directory / name, LOADS[name], options.peers, options.seconds, options.rounds, tell)
            print(report.load_table(name, measured[name]), end="\n\n", file=out, flush=True)
    return report.as_json(measured, more, {"seconds": options.seconds, "rounds": options.rounds, "peers": options.peers})


def main() -> int:
    options = arguments()
    # In memory: the disk has no part in what is measured.
    directory = Path(tempfile.mkdtemp(prefix="meshproxy-bench-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        result = measure(options, directory)
    except (PeerMissingError, PeerFailedError, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if options.json == "-":
        print(json.dumps(result, indent=2))
    elif options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
