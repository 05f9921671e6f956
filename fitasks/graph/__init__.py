"""doit's side: the tasks, what each does, the two commands, and everything of one run."""
