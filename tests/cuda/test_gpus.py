"""Which GPUs there are and which of them a server would see, from a stand-in for NVML."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fitasks.cuda.gpus import Gpu, all_gpus, architectures, usable, visible
from fitasks.doctor import machine
from tests.doit_project import Project

FAKE = Path(__file__).parents[1] / "fake_nvml"
FUNCTIONS = ("handle", "capability", "memory", "name", "uuid")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a machine with these GPUs: what all_gpus says of it."""
    monkeypatch.syspath_prepend(FAKE)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)

    def make(*gpus: dict[str, Any]) -> tuple[Gpu, ...]:
        monkeypatch.setenv("FAKE_GPUS", json.dumps(gpus))
        return all_gpus()

    yield make
    sys.modules.pop("pynvml", None)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_gpu_that_does_not_answer_keeps_no_other_away(host: Any, function: str) -> None:
    gpus = host({}, {"fails": function}, {"capability": "8.0"})
    found, refused = usable(gpus, {}, 4 << 30)
    assert [gpu.label for gpu in found] == ["0", "2"]
    assert [(gpu.label, gpu.name, why) for gpu, why in refused] == [("1", "no answer", "NVML says: GPU is lost")]
    assert architectures({}) == "8.0 9.0"


@pytest.mark.parametrize("function", ["memory", "uuid"])
def test_nor_does_an_instance(host: Any, function: str) -> None:
    gpus = host({"mig": 2, "fails": function, "depth": 2}, {})
    assert [(gpu.label, bool(gpu.trouble)) for gpu in gpus] == [("0.0", True), ("0.1", True), ("1", False)]


def test_a_divided_gpu_without_instances_says_why(host: Any) -> None:
    found, refused = usable(host({"mig": 0}, {}), {}, 4 << 30)
    assert [gpu.label for gpu in found] == ["1"]
    assert [(gpu.label, why) for gpu, why in refused] == [("0", "it is divided (MIG), and has no instances")]


@pytest.mark.parametrize("error", ["NotSupported", "NoPermission"])
def test_unknown_memory_is_no_refusal(host: Any, error: str) -> None:
    gpus = host({"fails": "memory", "error": error})
    assert (gpus[0].memory, gpus[0].free) == (0, None)
    assert usable(gpus, {}, 4 << 30) == (gpus, ())


def test_gpus_of_which_none_answers(host: Any) -> None:
    assert usable(host({"fails": "handle"}), {}, 1)[0] == ()
    assert architectures({}) == ""
    assert host() == ()


def test_nor_the_driver(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_COUNT", "fails")
    assert host({}) == ()


def test_the_doctor_says_it(host: Any) -> None:
    host({"fails": "handle"}, {"fails": "memory", "error": "NotSupported"}, {"mig": 1})
    found = [one for one in machine._gpus({"CUDA_VISIBLE_DEVICES": "1"}, None) if one.subject.startswith("GPU ")]
    assert [f"{one.state}: {one.subject}: {one.value}" for one in found] == [
        "problem: GPU 0: NVML says: GPU is lost",
        "ok: GPU 1: H100, 9.0",
        "ok: GPU 2.0: H100, 9.0, 80 GB, hidden by CUDA_VISIBLE_DEVICES",
    ]


@pytest.mark.parametrize(
    ("listed", "seen"),
    [
        ("", []),
        ("1,0", ["1.0", "0"]),
        ("GPU-aa0", ["0"]),
        ("GPU-aa1", ["1.0"]),  # a divided GPU is its first instance, as by index
        ("GPU-aa", []),  # of two
        ("0,GPU-aa,1", ["0"]),  # nothing after what is invalid
        ("MIG-11", ["1.1"]),
        ("MIG-1", []),
        ("MIG-GPU-aa1/8/0", ["1.1"]),
        ("MIG-GPU-aa1/9/0", []),
        ("GPU-aa1,1,MIG-10,MIG-GPU-aa1/7/0", ["1.0"]),
        ("2", ["2"]),  # refused later, and said
        ("0,0", []),  # named twice
        ("0,1,0", []),
        ("GPU-aa0,GPU-aa0", []),
        ("0,GPU-aa1", ["0"]),  # of one kind
        ("GPU-aa1,0", ["1.0"]),
        ("01", ["1.0"]),
        ("+1", ["1.0"]),
        ("1;2", ["1.0"]),
        ("GPU-zz", []),
        ("-1", []),
    ],
)
def test_what_cuda_visible_devices_leaves(host: Any, listed: str, seen: list[str]) -> None:
    gpus = host({}, {"mig": 2}, {"fails": "handle"})
    assert [gpu.label for gpu in visible(gpus, {"CUDA_VISIBLE_DEVICES": listed})] == seen


def test_a_beginning_that_is_another_name_is_that_name(host: Any) -> None:
    gpus = [Gpu(0, f"MIG-{one}", "H100", "9.0", 1, instance=one, parent="GPU-a", part=f"1/{one}") for one in (1, 11)]
    assert visible(gpus, {"CUDA_VISIBLE_DEVICES": "MIG-GPU-a/1/1"}) == (gpus[0],)
    assert visible(gpus, {"CUDA_VISIBLE_DEVICES": "MIG-1"}) == (gpus[0],)


@pytest.mark.usefixtures("flashinfer")
def test_with_targets_auto_one_lost_gpu_costs_nothing(tmp_path: Path) -> None:
    project = Project.make(tmp_path, "kernels:\n  page:\n")
    project.env["PYTHONPATH"] += f"{os.pathsep}{FAKE}"
    listed = project.doit("list", "--all", FAKE_GPUS=json.dumps([{"fails": "handle"}, {}]))
    assert "page for 9.0" in listed
    assert "Traceback" not in project.stderr
