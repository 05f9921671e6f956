"""What each task does and says: a module for each of dodo.py's groups, a function for each task, named like it.

Its docstring is doit's. What a task needs is imported when it runs, so that `doit list` stays quick.
"""
