"""Files to data: YAML's hazards, JSON, bounds, and where a field is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshproxy.config import document
from meshproxy.errors import ConfigError


def data_of(text: str) -> object:
    return document.parse("f.yaml", text).data


def problems_of(text: str, file: str = "f.yaml") -> list[str]:
    with pytest.raises(ConfigError) as refused:
        document.parse(file, text)
    return [str(problem) for problem in refused.value.problems]


def test_scalars_are_yaml_1_2() -> None:
    text = (
        "{a: on, b: yes, c: 1:30, d: 2024-01-01, e: 010, f: 0x1f, g: 1e3, h: .5, i: -7, j: ~, k: 'true', l: TRUE, m: 1.5, n: 08, o: 1.2.3}"
    )

    assert data_of(text) == {
        "a": "on",
        "b": "yes",
        "c": "1:30",
        "d": "2024-01-01",
        "e": 8,
        "f": 31,
        "g": 1000.0,
        "h": 0.5,
        "i": -7,
        "j": None,
        "k": "true",
        "l": True,
        "m": 1.5,
        "n": "08",
        "o": "1.2.3",
    }


def test_keys_are_text_whatever_they_look_like() -> None:
    assert data_of("on: 1\n200: 2\ntrue: 3\n~: 4\n") == {"on": 1, "200": 2, "true": 3, "~": 4}


def test_explicit_tags() -> None:
    assert data_of("a: !!str 5\nb: !!int '7'\n") == {"a": "5", "b": 7}
    assert problems_of("a: !!int x\nb: !thing 1\nc: !!set {a}\nd: !!python/object:os.system {}\n") == [
        "f.yaml:1: 'x' is no int. Correct the value or remove the tag.",
        "f.yaml:2: tag !thing is not taken. Remove it.",
        "f.yaml:3: tag tag:yaml.org,2002:set is not taken. Remove it.",
        "f.yaml:4: tag tag:yaml.org,2002:python/object:os.system is not taken. Remove it.",
    ]


def test_every_duplicate_key_is_told() -> None:
    assert problems_of("a: 1\nb:\n  c: 1\n  c: 2\na: 2\n") == [
        'f.yaml:4: key "c" is given twice. Keep one.',
        'f.yaml:5: key "a" is given twice. Keep one.',
    ]


def test_duplicate_keys_in_json_have_lines() -> None:
    assert problems_of('{"a": 1,\n "b": 2,\n "a": 3}', "f.json") == ['f.json:3: key "a" is given twice. Keep one.']


def test_merge_keys() -> None:
    text = "x: &x {a: 1, b: 2}\ny: &y {b: 3}\nz: {<<: [*y, *x], c: 4}\nw: {b: 9, <<: *x}\n"

    data = data_of(text)

    assert data["z"] == {"c": 4, "b": 3, "a": 1}
    assert data["w"] == {"b": 9, "a": 1}


def test_merging_what_is_no_mapping() -> None:
    assert "takes a mapping" in problems_of("a: {<<: 1}\n")[0]


def test_keys_that_are_no_words() -> None:
    assert problems_of("? [a, b]\n: 1\n") == ["f.yaml:1: a key is a list or a mapping. Use a word."]


def test_alias_bomb() -> None:
    lines = ["a0: &a0 [" + ",".join("x" * 9) + "]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]

    assert "values after aliases are expanded" in problems_of("\n".join(lines))[0]


def test_an_alias_to_itself() -> None:
    assert problems_of("a: &a [*a]\n") == ["f.yaml:1: values are nested deeper than 100 levels. An alias may refer to itself."]


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000])
def test_depth_without_end_is_refused(text: str) -> None:
    assert problems_of(text)


def test_deep_json_is_refused() -> None:
    assert problems_of('{"a":' * 100_000, "f.json")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: b: c\n", 1, "mapping values are not allowed"),
        ("a: 1\nb:\n\tc: 2\n", 3, "cannot start any token"),
        ("a: [1, 2\nb: 3\n", 2, "flow sequence"),
        ('a: 1\nb: "x\n', 3, "quoted scalar"),
        ("a: 1\n---\nb: 2\n", 2, "single document"),
        ("a: *nope\n", 1, "undefined alias"),
        ("a: 1\nb: \x00\n", 2, "character 0x00 is a control character"),
    ],
)
def test_broken_yaml_has_a_line(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        document.parse("f.yaml", text)

    problem = refused.value.problems[0]
    assert (problem.line, words in problem.message) == (line, True), problem


def test_broken_json_has_a_line() -> None:
    assert problems_of('{\n "a": 1,,\n}', "f.json")[0].startswith("f.json:2: not valid JSON")


def test_yaml_may_begin_with_a_brace() -> None:
    assert data_of("{a: 1}") == {"a": 1}


def test_not_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(b"a: 1\nb: \xff\n")

    with pytest.raises(ConfigError, match=r"f.yaml:2: byte 0xff is not UTF-8"):
        document.read(str(file))


def test_too_large(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    with file.open("wb") as opened:
        os.truncate(opened.fileno(), document.MOST_BYTES + 1)

    with pytest.raises(ConfigError, match="more than 64 MiB"):
        document.read(str(file))


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the file: No such file or directory\. Check the path\."):
        document.read(str(tmp_path / "nope"))


def test_lines_of_fields() -> None:
    read = document.parse("f.yaml", "a:\n  bC:\n  - x: 1\n    y: 2\n  - x: 3\nbase: &b\n  q: 1\nz:\n  <<: *b\n")

    assert read.line_of(["a", "b_c", 0, "y"]) == 4
    assert read.line_of(["a", "b_c", 1, "x"]) == 5
    assert read.line_of(["a", "b_c", 1, "nope"]) == 5
    assert read.line_of(["z", "q"]) == 7
    assert read.line_of([]) == 1


def test_lines_of_fields_in_json() -> None:
    assert document.parse("f.json", '{\n "a": {\n  "b": [1,\n 2]}}').line_of(["a", "b", 1]) == 4
