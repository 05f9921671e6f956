"""This machine's package sources, for the machines that a test builds: what pip and apt are configured with here."""

from __future__ import annotations

import ast
import platform
import re
import subprocess
import sys
from pathlib import Path


def pip_configuration() -> tuple[list[Path], str]:
    """The local places that pip's configuration names, and that configuration as one file's text."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    options: dict[str, str] = {}
    for section, name, value in re.findall(r"^(.+?)\.([\w-]+)=(.*)$", listed.stdout, re.MULTILINE):
        if section == ":env:" or name not in options:  # it comes first in this list, but wins
            options[name] = ast.literal_eval(value)
    words = (word.removeprefix("file://") for value in options.values() for word in value.split())
    # The pages of an index lead to files beside it.
    words = (word.removesuffix("/simple") for word in words if word.startswith("/"))
    places = dict.fromkeys(Path(word) for word in words if Path(word).exists())
    return list(places), "[global]\n" + "".join(f"{name} = {value}\n" for name, value in options.items())


def apt_sources(suite: str) -> list[str]:
    """Lines of sources.list for a Debian release, from where this machine, another Debian, gets its own."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Identifier: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    ours = platform.freedesktop_os_release()["VERSION_CODENAME"]
    words = (line.split() for line in dict.fromkeys(listed.stdout.splitlines()))
    return [
        f"deb {uri} {release.replace(ours, suite)} {component}"
        for uri, release, component in words
        if release.split("-")[0] == ours
    ]
