"""Fuzz target of the ClientHello codec: mutations of the corpus, judged by the compiled codec and by its twin.

    python -m tests.fuzz.fuzz_tlshello [--seed N] [--iterations N]

The same seed and number give the same inputs. The first disagreement ends the run with its bytes; a crash is best looked for on a
sanitizer build.
"""

from __future__ import annotations

import argparse
import random
from typing import NamedTuple

from meshproxy.codecs.tlshello import parse_hello_bytes
from tests.corpus import hellos
from tests.fuzz.mutation import mutate, overwrite
from tests.oracles import tlshello as oracle

WORDS = [b"\0", b"\0\0", b"\xff\xff", b"\x16\3\1", b"\1\0\0", b"\0\x10", b"\0\x2b", b"\0\x0a", b"\0\x0d", b"\3\4", b"\x3a\x3a", b"\2h2"]


class Ran(NamedTuple):
    """How many inputs were hellos and how many not."""

    read: int
    refused: int


def fuzz(seed: int, iterations: int) -> Ran:
    chance = random.Random(seed)
    pool = [*hellos.GOOD.values(), *hellos.BAD.values()]
    read = 0
    for _ in range(iterations):
        data = chance.choice(pool)
        for _ in range(chance.choice((1, 1, 2, 3, 6))):
            # Most lengths must stay right for the rest to be looked at.
            if chance.randrange(3):
                data = overwrite(data, WORDS, chance)
            else:
                data = mutate(data, chance.choice(pool), WORDS, chance)
        data = data[: chance.choice((len(data), len(data), chance.randrange(len(data) + 1)))]
        limit = chance.choice((16384, 16384, chance.randrange(64, 400)))
        said = parse_hello_bytes(data, limit=limit)
        assert said == oracle.parse(data, limit), (data, limit)
        read += isinstance(said, dict)
    return Ran(read, iterations - read)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the ClientHello codec against its twin.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=200_000)
    options = parser.parse_args()
    ran = fuzz(options.seed, options.iterations)
    print(f"seed={options.seed} read={ran.read} refused={ran.refused} disagreements=0")


if __name__ == "__main__":
    main()
