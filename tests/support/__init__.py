"""What tests stand on: real meshproxy processes, raw conversations, a scriptable origin, freshness of the build."""
