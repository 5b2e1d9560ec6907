"""Fuzz target of the PROXY codec: mutations of the corpus, judged by the compiled codec and by its twin.

    python -m tests.fuzz.fuzz_proxyproto [--seed N] [--iterations N]

The same seed and number give the same inputs. The first disagreement ends the run with its bytes; a crash is best looked for on a
sanitizer build.
"""

from __future__ import annotations

import argparse
import random
from typing import NamedTuple

from meshproxy.codecs.proxyproto import parse_proxy_bytes
from tests.corpus import proxy_headers
from tests.fuzz.mutation import mutate, overwrite
from tests.oracles import proxyproto as oracle

WORDS = [b"\0", b"\0\1", b"\xff\xff", b"\r\n", b" ", b"0", b"TCP4", b"TCP6", b"UNKNOWN", b"::", b"255", b"\x21", b"\x20", b"\3\0\4"]
LONG = 1000
"""The corpus' longest header is left out: the twin's checksum is slow."""


class Ran(NamedTuple):
    """How many inputs were headers and how many not."""

    read: int
    refused: int


def fuzz(seed: int, iterations: int) -> Ran:
    chance = random.Random(seed)
    pool = [data for data in [*proxy_headers.GOOD.values(), *proxy_headers.BAD.values()] if len(data) < LONG]
    read = 0
    for _ in range(iterations):
        data = chance.choice(pool)
        for _ in range(chance.choice((1, 1, 2, 3))):
            # Most lengths must stay right for the rest to be looked at.
            if chance.randrange(3):
                data = overwrite(data, WORDS, chance)
            else:
                data = mutate(data, chance.choice(pool), WORDS, chance)
        said = parse_proxy_bytes(data)
        assert said == oracle.parse(data), data
        read += isinstance(said, dict)
    return Ran(read, iterations - read)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the PROXY codec against its twin.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=200_000)
    options = parser.parse_args()
    ran = fuzz(options.seed, options.iterations)
    print(f"seed={options.seed} read={ran.read} refused={ran.refused} disagreements=0")


if __name__ == "__main__":
    main()
