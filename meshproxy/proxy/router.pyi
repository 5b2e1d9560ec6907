from collections.abc import Callable, Iterable, Iterator

from meshproxy import model

class Edits:
    @property
    def removed(self) -> list[bytes]: ...
    @property
    def added(self) -> list[tuple[bytes, bytes, str]]: ...

class Target:
    cluster: str
    weight: int
    request_edits: Edits | None
    response_edits: Edits | None
    host_rewrite: bytes

class CompiledVirtualHost:
    name: str
    name_bytes: bytes
    stats: bool
    block: int
    attempt_count_request: bool
    attempt_count_response: bool
    buffer_limit: int
    require_tls: int

class CompiledRoute:
    name: bytes
    action: int
    virtual_host: CompiledVirtualHost
    model: model.Route
    targets: list[Target]
    total_weight: int
    auto_host_rewrite: bool
    append_forwarded_host: bool
    high_priority: bool
    rewrites_path: bool
    timeout_ms: int
    idle_timeout_ms: int
    cluster_not_found_status: int
    upgrades: dict[bytes, bool] | None
    retry_on: int
    num_retries: int
    per_try_timeout_ms: int
    backoff_base_ms: int
    backoff_max_ms: int
    avoid_previous_hosts: bool
    host_selection_attempts: int
    retriable_status_codes: frozenset[int]
    status: int
    body: bytes
    content_type: bytes
    response_edits: Edits | None

    def rewritten(self, path: str) -> bytes: ...
    def location_for(self, authority: str, path: str, tls: bool = False) -> bytes | None: ...
    def target_for(self, random: int) -> Target: ...

class Router:
    name: str
    virtual_hosts: list[CompiledVirtualHost]
    ignore_port_in_host: bool
    internal_only_headers: tuple[bytes, ...]

    def route_of(
        self, method: str, authority: str, path: str, headers: Iterable[tuple[str, str]] = (), tls: bool = False,
    ) -> CompiledRoute | None: ...
    def pieces(self) -> list[object]: ...
    def repeat_find(self, method: str, authority: str, path: str, headers: Iterable[tuple[str, str]], times: int) -> int: ...

def compile_slices(table: model.RouteTable, budget_ns: int, clock_ns: Callable[[], int]) -> Iterator[Router | None]: ...
def compile_router(table: model.RouteTable) -> Router: ...
