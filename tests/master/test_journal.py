"""One line an event, whatever is in it."""

import os

from meshproxy.master.journal import Journal


def written(level: str, *events) -> list[str]:
    read_end, write_end = os.pipe()
    journal = Journal(level, write_end)
    for name, event, fields in events:
        getattr(journal, name)(event, **fields)
    os.close(write_end)
    with os.fdopen(read_end) as file:
        return [line.rpartition(" at=")[0] for line in file]


def test_fields_are_pairs_and_stay_on_their_line() -> None:
    fields = {"pid": 7, "why": 'a "b"\nc', "empty": "", "path": "C:\\x y"}

    assert written("info", ("info", "worker died", fields)) == [
        'meshproxy: worker died pid=7 why="a \\"b\\"\\nc" empty="" path="C:\\\\x y" level=info'
    ]


def test_less_than_the_level_is_not_written() -> None:
    events = [(level, level, {}) for level in ("debug", "info", "warning", "error")]

    assert written("warning", *events) == ["meshproxy: warning level=warning", "meshproxy: error level=error"]


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    journal = Journal("info", write_end)

    journal.info("into a broken pipe")
    os.close(write_end)
    journal.info("into nothing")
