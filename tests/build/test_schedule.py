"""Order and threads for the kernels of one run, from costs alone."""

from __future__ import annotations

from pathlib import Path

from fitasks.build.costs import Cost, Costs, guess
from fitasks.build.schedule import Schedule, heaviest_first, schedule
from fitasks.plan.kernel import Kernel

# CPU seconds and longest file as measured on 16 cores of an H100 machine with FlashInfer 0.7.2.post1.
MEASURED = {
    "page": (32, 22),
    "cascade": (17, 11),
    "quantization": (26, 20),
    "sampling": (199, 140),
    "rope": (85, 67),
    "decode": (41, 16),
    "fa2": (196, 25),
    "fa3": (877, 96),
}


def kernel(label: str) -> Kernel:
    return Kernel(label, label, label, "9.0a", "", {}, name=label)


def costs(tmp_path: Path) -> Costs:
    known = Costs(tmp_path / "costs.json")
    for label, (cpu, longest) in MEASURED.items():
        known.learn(kernel(label), Cost(cpu, longest, 1 << 30))
    return Costs.load(tmp_path / "costs.json")


def of_all(tmp_path: Path, slots: int, *, split: bool = True) -> Schedule:
    return schedule(map(kernel, MEASURED), costs(tmp_path), slots, split=split)


def test_what_would_end_last_begins_first_and_is_split(tmp_path: Path) -> None:
    found = of_all(tmp_path, 16)
    assert found.order == ("sampling", "fa3", "fa2", "rope", "decode", "page", "quantization", "cascade")
    assert found.split == {"sampling": 4}
    assert round(found.bound, 1) == 96.0, "fa3's longest file, a little over an even spread of 92.1 s"


def test_with_two_cores_nothing_is_split(tmp_path: Path) -> None:
    found = of_all(tmp_path, 2)
    assert found.order[:3] == ("fa3", "sampling", "fa2")
    assert found.split == {}
    assert found.bound == sum(cpu for cpu, _ in MEASURED.values()) / 2


def test_split_compile_false(tmp_path: Path) -> None:
    found = of_all(tmp_path, 16, split=False)
    assert found.split == {}
    assert found.order[0] == "sampling", "it still begins first"
    assert found.bound == 140


def test_one_kernel_alone_is_split(tmp_path: Path) -> None:
    assert schedule([kernel("page")], costs(tmp_path), 8, split=True).split == {"page": 4}


def test_nothing_to_do() -> None:
    assert schedule([], Costs(Path("/dev/null")), 2, split=True) == Schedule((), {}, 0.0)


def test_doit_begins_with_the_heaviest(tmp_path: Path) -> None:
    labels = [one.label for one in heaviest_first(map(kernel, MEASURED), costs(tmp_path))]
    assert labels == ["fa3", "sampling", "fa2", "rope", "decode", "page", "quantization", "cascade"]


def test_first_guesses_put_the_known_long_ones_first() -> None:
    """What was never built: by family. sampling.cu must be split on 16 cores at the first build already."""
    sources = {"sampling": 3, "rope": 2, "page": 2, "x_sm90": 10, "fa2": 10}
    kernels = [
        Kernel(name, name, name, "9.0a", "", {}, name=name, sources=tuple(Path(f"{n}.cu") for n in range(count)))
        for name, count in sources.items()
    ]
    found = schedule(kernels, Costs(Path("/dev/null")), 16, split=True)
    assert found.order == ("sampling", "x_sm90", "fa2", "rope", "page")
    assert list(found.split) == ["sampling"]
    assert not guess(kernels[0]).learnt
