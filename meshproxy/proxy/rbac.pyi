"""Rules of who may do what."""

from meshproxy.model import RbacRules

def asks_for_local(rules: RbacRules | None) -> bool: ...
def finds_policy(
    rules: RbacRules, remote: str = "", direct_remote: str = "", local: str = "", sni: bytes | None = None, peer: tuple | None = None
) -> bool: ...
