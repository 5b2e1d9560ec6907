"""Every entry of the corpus is judged by the compiled codec and by its twin, in one piece and at every split."""

from __future__ import annotations

import pytest

from meshproxy.codecs import http1 as codec
from tests.corpus.http1 import responses, smuggling, valid
from tests.corpus.http1.case import Case
from tests.oracles import http1_agreement as agreement
from tests.oracles.http1 import HOP_BY_HOP


def judged(case: Case, head: dict | int) -> int | dict:
    """The error that a proxy meets in these bytes, head or body, or the head."""
    if isinstance(head, int):
        return head
    body = agreement.agree_on_body_split(case.data[head["length"]:], head["body"], head["content_length"])
    if body.said < 0:
        return body.said
    trailers = agreement.agree_on_trailers(body.trailers or b"")
    if case.body is not None:
        assert body.data == case.body
    return trailers if isinstance(trailers, int) else head


def check(case: Case, verdict: int | dict) -> None:
    if case.status:
        assert isinstance(verdict, int), "must be refused"
        assert verdict < 0, "must not be waited for"
        assert codec.status_of(verdict) == case.status
        return
    assert isinstance(verdict, dict), "must be read"
    assert {key: verdict[key] for key in case.says} == case.says
    names = {name.lower() for name, _, _, _ in verdict["headers"]}
    gone = {name.lower() for name, _, _, hop_by_hop in verdict["headers"] if hop_by_hop}
    assert gone == set(case.gone) | names & HOP_BY_HOP


@pytest.mark.parametrize("case", smuggling.REQUESTS, ids=lambda case: case.name)
def test_smuggling_request(case: Case) -> None:
    check(case, judged(case, agreement.agree_on_request_split(case.data)))


@pytest.mark.parametrize("case", valid.REQUESTS, ids=lambda case: case.name)
def test_valid_request(case: Case) -> None:
    check(case, judged(case, agreement.agree_on_request_split(case.data)))


@pytest.mark.parametrize("case", responses.BAD + responses.GOOD, ids=lambda case: case.name)
def test_response(case: Case) -> None:
    check(case, judged(case, agreement.agree_on_response_split(case.data, case.method)))


def test_corpus_is_large_and_its_names_are_unique() -> None:
    names = [case.name for case in smuggling.REQUESTS]

    assert len(names) == len(set(names)) >= 150
    assert len({case.data for case in smuggling.REQUESTS}) == len(names), "the same bytes twice"
    assert len(responses.BAD) >= 30
