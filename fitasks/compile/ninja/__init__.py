"""ninja's files, logs and questions."""
