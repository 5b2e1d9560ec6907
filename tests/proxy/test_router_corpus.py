"""Envoy's own router_check cases (tests/corpus/router-check). What the model cannot say is named here, with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshproxy.model import (
    DirectResponse,
    ForwardAction,
    HeaderMatch,
    HeaderMutations,
    HeaderValue,
    PathMatch,
    Redirect,
    Route,
    RouteTable,
    StringMatch,
    VirtualHost,
    WeightedCluster,
)
from meshproxy.proxy.router import CompiledRoute, compile_router
from tests.oracles import router as oracle

CORPUS = Path(__file__).resolve().parents[1] / "corpus" / "router-check"
Json = dict[str, Any]

NO_CLUSTER_HEADER = "cluster_header is not in the model"
NO_VIRTUAL_CLUSTERS = "virtual clusters are not in the model"
LEFT_OUT = {
    **{("ClusterHeader", f"Test{number}"): NO_CLUSTER_HEADER for number in (1, 2, 3)},
    **{("TestRoutes", f"Test{number}"): NO_VIRTUAL_CLUSTERS for number in range(19, 31)},
    ("TestRoutes", "RequestHeaderMatches 2"): "format operators in header values are not in the model",
}
FIELDS_LEFT_OUT = {
    ("TestRoutes", "Test1"): {"virtual_cluster_name": NO_VIRTUAL_CLUSTERS},
    ("TestRoutes", "ResponseHeaderMatches"): {
        "virtual_cluster_name": NO_VIRTUAL_CLUSTERS,
        "virtual_host_name": "the tool asks only routes that forward for their virtual host",
        "path_redirect": "the tool makes a Location for direct responses too",
        "host_rewrite": "the tool has no host for direct responses",
        "path_rewrite": "the tool has no path for direct responses",
    },
}
GRPC = HeaderMatch(name="content-type", string=StringMatch("regex", r"application/grpc(\+.*)?"))
STATUS = {"MOVED_PERMANENTLY": 301, "FOUND": 302}


def header_match(form: Json) -> HeaderMatch:
    more: Json = {"invert": form.get("invert_match", False), "present": form.get("present_match")}
    if "string_match" in form:
        kind, value = next(iter(form["string_match"].items()))
        more["string"] = StringMatch("regex", value["regex"]) if kind == "safe_regex" else StringMatch(kind, value)
    if "range_match" in form:
        more["range"] = (form["range_match"]["start"], form["range_match"]["end"])
    return HeaderMatch(name=form["name"].lower(), **more)


def mutations(form: Json) -> HeaderMutations:
    def values(side: str) -> tuple[HeaderValue, ...]:
        pairs = [(entry["header"]["key"], entry["header"]["value"]) for entry in form.get(f"{side}_headers_to_add", ())]
        return tuple(HeaderValue(key, value) for key, value in pairs if not value.startswith("%"))

    return HeaderMutations(
        request_add=values("request"), response_add=values("response"),
        request_remove=tuple(form.get("request_headers_to_remove", ())), response_remove=tuple(form.get("response_headers_to_remove", ())),
    )


def action(form: Json) -> ForwardAction | Redirect | DirectResponse:
    if "redirect" in form:
        said = form["redirect"]
        status = STATUS[said.get("response_code", "MOVED_PERMANENTLY")]
        return Redirect(status=status, host=said.get("host_redirect", ""), path=said.get("path_redirect", ""))
    if "direct_response" in form:
        return DirectResponse(status=form["direct_response"]["status"], body=form["direct_response"]["body"]["inline_string"].encode())
    said = form["route"]
    clusters = (WeightedCluster(name=said["cluster"]),)
    rewrites = {"prefix_rewrite": said.get("prefix_rewrite", ""), "host_rewrite": said.get("host_rewrite_literal", "")}
    return ForwardAction(clusters=clusters, **rewrites)


def route(form: Json) -> Route:
    match = form["match"]
    kind = "exact" if "path" in match else "prefix"
    path = PathMatch(kind, match.get("path", match.get("prefix")), match.get("case_sensitive", True))
    headers = [header_match(header) for header in match.get("headers", ())] + ([GRPC] if "grpc" in match else [])
    return Route(path=path, action=action(form), headers=tuple(headers), mutations=mutations(form))


def route_table(name: str) -> RouteTable:
    form = yaml.safe_load((CORPUS / f"{name}.yaml").read_text())
    hosts = [
        VirtualHost(
            name=host["name"], domains=tuple(host["domains"]), routes=tuple(map(route, host["routes"])), mutations=mutations(host),
        )
        for host in form["virtual_hosts"]
    ]
    return RouteTable(name=name, virtual_hosts=tuple(hosts), mutations=mutations(form))


def cases() -> list[tuple[str, Json]]:
    files = sorted(CORPUS.glob("*.golden.proto.json"))
    return [(file.name.split(".")[0], case) for file in files for case in json.loads(file.read_text())["tests"]]


def result(found: CompiledRoute, asked: Json) -> Json:
    """What router_check would tell of the route."""
    model = found.model.action
    told = {"cluster_name": "", "path_redirect": "", "virtual_host_name": found.virtual_host.name}
    if isinstance(model, ForwardAction):
        target = found.target_for(0)
        told |= {"cluster_name": target.cluster, "path_rewrite": found.rewritten(asked["path"]).decode()}
        told["host_rewrite"] = target.host_rewrite.decode() or asked["authority"]
    elif isinstance(model, Redirect):
        told["code_redirect"] = found.status
        told["path_redirect"] = found.location_for(asked["authority"], asked["path"], asked.get("ssl", False)).decode()
    return told


def sent(found: CompiledRoute, asked: Json, told: Json, side: str) -> oracle.Request:
    """The request that goes upstream, or the response as if it were one, after the route's header mutations."""
    if side == "request":
        edits, headers = found.target_for(0).request_edits, []
    else:
        headers = [("content-type", found.content_type.decode()), ("content-length", str(len(found.body)))]
        edits = found.response_edits
    fields = tuple(oracle.edited(edits, headers))
    return oracle.Request(asked["method"], told.get("host_rewrite", ""), told.get("path_rewrite", ""), fields, asked.get("ssl", False))


@pytest.mark.parametrize(("name", "case"), [pytest.param(name, case, id=f"{name}-{case['test_name']}") for name, case in cases()])
def test_case(name: str, case: Json) -> None:
    key = (name, case["test_name"])
    if key in LEFT_OUT:
        pytest.skip(LEFT_OUT[key])
    asked = case["input"]
    headers = [(header["key"], header["value"]) for header in asked.get("additional_request_headers", ())]
    found = compile_router(route_table(name)).route_of(asked["method"], asked["authority"], asked["path"], headers, asked.get("ssl", False))
    told = result(found, asked)

    for field, value in case["validate"].items():
        if field in FIELDS_LEFT_OUT.get(key, {}):
            continue
        if field.endswith("_header_matches"):
            request = sent(found, asked, told, field.split("_")[0])
            assert [match for match in value if not oracle.header_matches(header_match(match), request)] == []
        else:
            assert told[field] == value, field


def test_every_case_is_run_or_named() -> None:
    keys = [(name, case["test_name"]) for name, case in cases()]

    assert len(keys) == 55
    assert set(LEFT_OUT) | set(FIELDS_LEFT_OUT) <= set(keys)
    assert len(keys) - len(LEFT_OUT) == 39
