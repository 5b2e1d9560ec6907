"""What the detection of HTTP must say: regular expressions over what is there."""

from __future__ import annotations

import re

MORE, NONE, HTTP_1_0, HTTP_1_1, HTTP_2 = 1, -1, 2, 3, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
METHOD = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}"
TEXT = rb"[\x20-\x7e\x80-\xff]*"


def detect(data: bytes) -> int:
    if data.startswith(PREFACE):
        return HTTP_2
    if PREFACE.startswith(data):
        return MORE
    found = re.match(METHOD + b" " + TEXT + rb"\r\n", data)
    if found:
        version = re.search(rb" HTTP/1\.([01])\r\n\Z", found.group()[re.match(METHOD, data).end() + 1:])
        return NONE if version is None else HTTP_1_1 if version[1] == b"1" else HTTP_1_0
    return MORE if re.fullmatch(METHOD + b"(?: " + TEXT + rb"\r?)?", data) else NONE
