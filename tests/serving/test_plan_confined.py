"""What a generator may do that a trace asked for: write in FlashInfer's cache, and nothing else. Watched by the kernel's
own audit events, so in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

SERVING = Path(__file__).resolve().parents[2] / "fitasks" / "serving" / "plan"
SCRIPT = """
import os, pathlib, shutil, subprocess, sys, types
sys.path.insert(0, {serving!r})
root = pathlib.Path({root!r})
env, core = types.ModuleType("flashinfer.jit.env"), types.ModuleType("flashinfer.jit.core")
env.FLASHINFER_WORKSPACE_DIR, env.FLASHINFER_CUBIN_DIR = root / "cache", root / "cubins"
core.JitSpec = type("JitSpec", (), dict(build_and_load=None))
jit = types.ModuleType("flashinfer.jit")
jit.env, jit.core = env, core
for module in (types.ModuleType("flashinfer"), jit, env, core):
    sys.modules[module.__name__] = module
from plan_errors import PlanError
from plan_spec import confined, generate, install_network_guard
install_network_guard()
def gen_x_module():
    {act}
    return "made"
try:
    with confined():
        print(generate(gen_x_module))
except PlanError as error:
    print(error)
(root / "after").write_text("nobody is confined any more")
"""


def said(root: Path, act: str) -> str:
    for name in ("cache", "cubins", "elsewhere"):
        (root / name).mkdir()
    (root / "elsewhere" / "victim").write_text("kept")
    script = SCRIPT.format(serving=str(SERVING), root=str(root), act=act)
    (root / "bin").mkdir()
    (root / "bin" / "nvcc").symlink_to("/bin/true")
    command, env = [sys.executable, "-S", "-c", script], {"CUDA_HOME": str(root)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=True)
    assert (root / "after").exists()
    assert (root / "elsewhere" / "victim").read_text() == "kept"
    assert [path.name for path in (root / "elsewhere").iterdir()] == ["victim"]
    return done.stdout.strip()


@pytest.mark.parametrize(
    "act",
    [
        "(root / 'cache/generated/page').mkdir(parents=True); (root / 'cache/generated/page/a.cu').write_text('x')",
        "(root / 'cubins/a').write_bytes(b'x')",
        "subprocess.run([os.environ['CUDA_HOME'] + '/bin/nvcc', '--list-gpu-arch'])",
        "open('/dev/null', 'w').close(); open(__import__('sys').executable, 'rb').close()",
    ],
)
def test_what_generators_do(tmp_path: Path, act: str) -> None:
    assert said(tmp_path, act) == "made"


@pytest.mark.parametrize(
    ("act", "what"),
    [
        ("(root / 'cache/../elsewhere/x').write_text('x')", "write {root}/elsewhere/x"),
        ("(root / 'elsewhere/victim').unlink()", "write {root}/elsewhere/victim"),
        ("os.rename(root / 'elsewhere/victim', root / 'cache/x')", "write {root}/elsewhere/victim"),
        ("os.symlink('x', root / 'elsewhere/x')", "write {root}/elsewhere/x"),
        ("os.symlink(root / 'elsewhere', root / 'cache/e'); (root / 'cache/e/x').mkdir()", "write {root}/elsewhere/x"),
        ("os.truncate(root / 'elsewhere/victim', 0)", "write {root}/elsewhere/victim"),
        ("subprocess.run(['touch', 'elsewhere/x'])", "start a process (subprocess.Popen)"),
        ("subprocess.run([str(root / 'bin/nvcc'), '-o', 'elsewhere/x'])", "start a process (subprocess.Popen)"),
        ("subprocess.run([str(root / 'bin/nvcc'), '-odir=x'])", "start a process (subprocess.Popen)"),
        ("os.system('touch elsewhere/x')", "start a process (os.system)"),
        ("os.posix_spawn('/bin/true', ['true'], {{}})", "start a process (os.posix_spawn)"),
        ("shutil.copy(root / 'elsewhere/victim', root / 'elsewhere/x')", "write {root}/elsewhere/x"),
    ],
)
def test_what_none_may_do(tmp_path: Path, act: str, what: str) -> None:
    told = f"gen_x_module would {what}, which nothing may that a trace asks for".format(root=tmp_path)
    assert said(tmp_path, act.replace("{{}}", "{}")).startswith(told)
