"""Real nodes, real sockets: what a user would see."""
