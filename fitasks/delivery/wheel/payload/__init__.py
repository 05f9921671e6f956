"""Python files that travel in the wheel; standard library only, and nothing of fitasks: it isn't there."""
