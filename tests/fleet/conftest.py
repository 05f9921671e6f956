"""A Dask scheduler and workers as processes, each with a directory and a HOME of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.doit_project import ROOT
from tests.fleet.shops import COMPILER

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 60.0


@dataclass
class Cluster:
    """Everything below one directory."""

    root: Path
    processes: dict[str, subprocess.Popen[Any]] = field(default_factory=dict)

    @property
    def tools(self) -> Path:
        return self.root / "tools"

    @property
    def address(self) -> str:
        return str(json.loads((self.root / "scheduler.json").read_text())["address"])

    def env(self, place: Path, count: int) -> dict[str, str]:
        place.mkdir(exist_ok=True)
        own = {"HOME": str(place), "FITASKS_TEST_TOOLS": str(self.tools), "FITASKS_TEST_COUNT": str(count)}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        found = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        return (
            os.environ | own | {"PATH": path, "PYTHONPATH": found, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
        )

    def start(self, name: str, *words: str, count: int = 8, place: str = "") -> subprocess.Popen[Any]:
        """In a directory of its name, or of another's."""
        home = self.root / (place or name)
        env = self.env(home, count)
        with (self.root / f"{name}.log").open("w") as log:
            made = subprocess.Popen([sys.executable, "-m", *words], cwd=home, env=env, stdout=log, stderr=log)
        self.processes[name] = made
        return made

    def scheduler(self) -> None:
        file = self.root / "scheduler.json"
        file.unlink(missing_ok=True)
        words = ["distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        self.start("scheduler", *words)
        self.wait(file.exists)

    def worker(self, name: str, *, count: int = 8, place: str = "") -> subprocess.Popen[Any]:
        """A worker that is there, so that whoever asks next meets it."""
        words = [
            "--no-nanny",
            "--no-dashboard",
            "--nthreads",
            "2",
            "--scheduler-file",
            str(self.root / "scheduler.json"),
        ]
        made = self.start(name, "distributed.cli.dask_worker", *words, count=count, place=place)
        self.wait(lambda: "Registered to" in self.said(name))
        return made

    def ask(self, name: str, *, count: int = 8) -> subprocess.Popen[Any]:
        return self.start(name, "tests.fleet.shops", self.address, name, count=count)

    def said(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text()

    def end(self, name: str) -> dict[str, str]:
        """How each kernel of an asker ended."""
        self.processes[name].wait(timeout=PATIENCE)
        last = self.said(name).splitlines()[-1]
        assert last.startswith("{"), self.said(name)
        found: dict[str, str] = json.loads(last)
        return found

    def calls(self, kind: str = "start") -> list[str]:
        """Sources that compilers were started for, in order."""
        log = self.tools / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.split()[2] for line in lines if line.split()[0] == kind]

    def wait(self, what: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, {name: self.said(name) for name in self.processes}
            time.sleep(0.05)

    def stop(self, all_but: str = "") -> None:
        """End processes, and wait until the scheduler knows of no worker."""
        for name in [name for name in self.processes if name != all_but]:
            process = self.processes.pop(name)
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    made = Cluster(tmp_path_factory.mktemp("fleet"))
    made.tools.mkdir()
    compiler = made.tools / "c++"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    try:
        made.scheduler()
        yield made
    finally:
        made.stop()
