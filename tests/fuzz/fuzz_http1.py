"""Fuzz target of the HTTP/1 codec: mutations of the corpus, judged by the compiled codec and by its twin.

    python -m tests.fuzz.fuzz_http1 [--seed N] [--iterations N | --long]

The same seed and number give the same inputs. The first disagreement ends the run with its bytes; a crash of the process is one as well,
best looked for on a sanitizer build. `--atheris DIRECTORY` drives the same comparison by the twin's coverage where atheris is installed,
from a corpus that it writes to the directory; the rest of its command line is libFuzzer's.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import NamedTuple

from tests.corpus.http1 import responses, smuggling, valid
from tests.oracles import http1_agreement as agreement
from tests.oracles.http1 import BODY_CHUNKED, DEFAULTS, Limits

SEED_BYTES_AT_MOST = 1500
WORDS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n",
    b"\x00", b"\t", b" ", b":", b",", b";", b"=", b"0", b"5", b"ffffffffffffffff", b"\xff", b"\x7f", b"\x0b",
    b"Host: b\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close, X\r\n", b"Expect: 100-continue\r\n",
    b"chunked", b"HTTP/1.0", b"HTTP/1.1", b"GET / HTTP/1.1\r\n", b"http://a/", b"0\r\n\r\n", b"5\r\nhello\r\n", b";a=b",
    b"X: y\r\n", b"_", b"#",
]
METHODS = [b"GET", b"HEAD", b"CONNECT"]


class Ran(NamedTuple):
    """How many inputs were read and how many refused."""

    read: int
    refused: int


def seeds() -> list[tuple[bool, bytes]]:
    """(is a request, bytes). The good ones several times: a fault in a good message finds more than a second fault in a bad one."""
    found = [(True, case.data) for case in smuggling.REQUESTS + smuggling.NORMALISED * 5 + valid.REQUESTS * 12]
    found += [(False, case.data) for case in responses.BAD + responses.GOOD * 6]
    return [(is_request, data) for is_request, data in found if len(data) <= SEED_BYTES_AT_MOST]


def mutate(data: bytes, other: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    end = min(at + chance.choice((1, 1, 2, 4, 16)), len(data))
    match chance.randrange(7):
        case 0:
            return data[:at] + bytes([chance.randrange(256)]) + data[end:]
        case 1:
            return data[:at] + bytes([chance.randrange(256)]) + data[at:]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:at] + chance.choice(WORDS) + data[at:]
        case 4:
            return data[:at] + chance.choice(WORDS) + data[end:]
        case 5:
            return data[:end] + data[at:]
        case _:
            return data[:at] + other[chance.randrange(len(other) + 1):]


def compare(is_request: bool, data: bytes, cuts: list[int], method: bytes = b"GET", limits: Limits = DEFAULTS) -> bool:
    """Whether the head is read; raises AssertionError when codec and twin disagree on head, body or trailers at these cuts."""
    cuts = sorted(min(cut, len(data)) for cut in cuts)
    if is_request:
        head = agreement.agree_on_request_split(data, limits, [*cuts, len(data)])
    else:
        head = agreement.agree_on_response_split(data, method, [*cuts, len(data)])
    # What follows a refused head is looked at as a chunked body all the same.
    length, body, content_length = 0, BODY_CHUNKED, -1
    if isinstance(head, dict):
        length, body, content_length = head["length"], head["body"], head["content_length"]
    rest = data[length:]
    agreement.agree_on_body(rest, body, content_length, 64, [min(cut, len(rest)) for cut in cuts])
    agreement.agree_on_trailers(rest)
    return isinstance(head, dict)


def fuzz(seed: int, iterations: int) -> Ran:
    chance = random.Random(seed)
    pool = seeds()
    read = 0
    for _ in range(iterations):
        is_request, data = chance.choice(pool)
        for _ in range(chance.choice((1, 1, 2, 3, 6))):
            data = mutate(data, chance.choice(pool)[1], chance)
        limits = DEFAULTS
        if not chance.randrange(4):
            limits = Limits(chance.randrange(1, 300), chance.randrange(6), chance.randrange(60), False, False)
        cuts = [chance.randrange(len(data) + 1) for _ in range(chance.randrange(5))]
        read += compare(is_request, data, cuts, chance.choice(METHODS), limits)
    return Ran(read, iterations - read)


def one_input(data: bytes) -> None:
    """Two bytes that say what is compared and where it is cut, then the message."""
    if len(data) > 2:
        compare(bool(data[0] & 1), data[2:], [data[1], data[1] * 3 // 2], METHODS[data[0] % 3])


def fuzz_by_coverage(corpus: Path, arguments: list[str]) -> None:
    import atheris

    corpus.mkdir(parents=True, exist_ok=True)
    for number, (is_request, data) in enumerate(dict.fromkeys(seeds())):
        (corpus / f"seed-{number}").write_bytes(bytes([is_request, 20]) + data)
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], one_input)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the HTTP/1 codec against its twin.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--long", action="store_true", help="two million iterations")
    parser.add_argument("--atheris", type=Path, metavar="DIRECTORY", help="by coverage, with the corpus there; needs atheris")
    options, rest = parser.parse_known_args()
    if options.atheris:
        fuzz_by_coverage(options.atheris, rest)
        return
    ran = fuzz(options.seed, 2_000_000 if options.long else options.iterations)
    print(f"seed={options.seed} read={ran.read} refused={ran.refused} disagreements=0")


if __name__ == "__main__":
    main()
