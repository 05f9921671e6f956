"""Child processes: a session each, a time limit, a sure end, whatever ends this process itself."""
