"""The shared-memory region: slot heads, metric pages, rings. The catalogue names every cell; `region` maps them."""
