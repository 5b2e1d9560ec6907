"""Commands as people and scripts use them."""
