"""Stores elsewhere for tests: real kernels of a workshop, or stand-ins without a compiler; chains of stores; servers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fitasks.compile import receipt as receipts
from fitasks.compile.ninja.ninja import DEPS, LOG
from fitasks.compile.receipt import Output, Receipt
from fitasks.config.stores import StoreRequest
from fitasks.store.chain import Chain
from fitasks.store.local import FETCHED, Store
from fitasks.store.remote.breaker import BUDGET
from fitasks.store.remote.loop import Loop
from fitasks.store.remote.remote import Remote

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


TOOLS = {"nvcc": "V13.0.88", "c++": "g++ 12"}


@dataclass
class Client:
    """A machine: its own store, stores elsewhere, and what was said."""

    root: Path
    said: list[str] = field(default_factory=list)
    budget: float = BUDGET  # seconds, of each breaker

    def chain(self, *requests: StoreRequest, env: Mapping[str, str] | None = None) -> Chain:
        loop = Loop()
        remotes = [Remote(one, loop, env or {}, self.said.append) for one in requests]
        for remote in remotes:
            remote.reading.budget = remote.writing.budget = self.budget
        return Chain(Store(self.root), remotes, loop, self.said.append)

    def remote(self, request: StoreRequest, env: Mapping[str, str] | None = None) -> Remote:
        return self.chain(request, env=env).remotes[0]


def request(url: object, *, push: bool = False, trust: tuple[str, ...] = ()) -> StoreRequest:
    return StoreRequest(str(url), push, trust)


def stand_in(
    directory: Path, name: str = "page", *, files: int = 2, size: int = 1000, flavour: str = "", headers: int = 1
) -> Receipt:
    """A receipt as a build leaves it, and its files, which no compiler made."""
    directory.mkdir(parents=True, exist_ok=True)
    outputs = {}
    for file in (f"{name}.so", *(f"{name}_{index}.o" for index in range(files)), LOG, DEPS):
        data = (hashlib.sha256(f"{name}/{file}/{flavour}".encode()).digest() * (size // 32 + 1))[:size]
        (directory / file).write_bytes(data)
        outputs[file] = Output(hashlib.sha256(data).hexdigest(), len(data), 1)
    commands = f"rule {name}{flavour}"
    inputs = "\n".join(f"{number:064x} {{FLASHINFER}}/data/include/{name}_{number}.h" for number in range(headers))
    return Receipt(
        name=name,
        flashinfer="0.7.4",
        target="9.0a",
        generator="flashinfer.page:gen_page_module",
        commands=commands,
        toolchain=TOOLS,
        inputs=inputs,
        fingerprint=receipts.fingerprint(commands, TOOLS, inputs),
        ninja="1.13.0",
        build_ninja="0" * 64,
        sealed_ns=1,
        outputs=outputs,
        stamp="stamp",
    )


@dataclass
class Wanted:
    """In the place of a kernel and its judge: wants what this receipt was built from, and nothing else."""

    receipt: Receipt
    toolchain: Mapping[str, str] = field(default_factory=lambda: TOOLS)
    target: str = "9.0a"

    @property
    def name(self) -> str:
        return self.receipt.name

    @property
    def label(self) -> str:
        return self.receipt.name

    def commands(self, kernel: object) -> str:
        return self.receipt.commands

    def differences(self, kernel: object, receipt: Receipt) -> list[str]:
        return [] if receipt.fingerprint == self.receipt.fingerprint else ["page.h changed"]


def find(chain: Chain, receipt: Receipt) -> tuple[Path, Receipt] | None:
    """As the builder does."""
    wanted = Wanted(receipt)
    chain.fetch(wanted, wanted)  # type: ignore[arg-type]
    return chain.find(wanted, wanted)  # type: ignore[arg-type]


def whole(place: Path, receipt: Receipt) -> bool:
    """Whether a directory has every file of a kernel but ninja's logs, as it was built."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()}
    for beside in (receipts.NAME, FETCHED):
        found.pop(beside, None)
    return found == {name: one.sha256 for name, one in receipt.outputs.items() if name not in {LOG, DEPS}}
