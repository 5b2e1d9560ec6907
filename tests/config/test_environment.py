"""`${NAME}` in native YAML."""

from __future__ import annotations

import pytest

from meshproxy.config.load import load_text
from meshproxy.errors import ConfigError


def configuration(text: str, **env: str):
    return load_text(text, env).snapshot


def test_a_value_gets_its_type_afterwards() -> None:
    snapshot = configuration("workers: ${N}\nuser: ${U}\nlog_level: ${L:-debug}\nadmin: 127.0.0.1:${PORT}\n", N="3", U="www", PORT="99")

    assert (snapshot.process.workers, snapshot.process.user, snapshot.log_level) == (3, "www", "debug")
    assert str(snapshot.admin.address) == "127.0.0.1:99"


def test_quoted_values_stay_text_and_numbers_in_quotes_are_taken() -> None:
    snapshot = configuration('workers: "${N}"\nuser: "${N}"\n', N="3")

    assert (snapshot.process.workers, snapshot.process.user) == (3, "3")


def test_a_value_cannot_become_structure() -> None:
    assert configuration("node: {id: '${X}'}\nuser: ${X}\n", X="a\nworkers: 9 # {").process.user == "a\nworkers: 9 # {"


def test_what_becomes_empty_is_not_set() -> None:
    assert configuration("user: ${U:-}\nworkers: 2\n").process.user == ""


def test_escape() -> None:
    snapshot = configuration("listeners: [{address: '127.0.0.1:1', respond: {body: '$${HOME} $x ${A}'}}]", A="b")

    assert snapshot.route_tables[0].virtual_hosts[0].routes[0].action.body == b"${HOME} $x b"


def test_in_json() -> None:
    assert configuration('{"workers": "${N}", "user": "${U:-www}"}', N="4").process.workers == 4


def test_missing_and_odd_references_have_lines() -> None:
    with pytest.raises(ConfigError) as refused:
        configuration("workers: 1\nuser: ${HOSTNMAE}\ngroup: ${1x}\n", HOSTNAME="h")

    assert [str(problem) for problem in refused.value.problems] == [
        'configuration:2: environment variable HOSTNMAE is not set (did you mean "HOSTNAME"?). Set it, or write ${HOSTNMAE:-default}.',
        'configuration:3: "${1x}" is no reference to the environment. Write ${NAME}, ${NAME:-default}, or $${ for "${" itself.',
    ]


def test_envoys_form_is_left_alone() -> None:
    text = "node: {id: '${X}'}\nstatic_resources: {}\n"

    assert load_text(text, {}).snapshot.node.id == "${X}"
