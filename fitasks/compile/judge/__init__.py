"""Is a kernel what a build would make now?"""
