"""Builds Dockerfile.engine with buildah on stand-ins for the engines' own images, and looks into the results.

    python -m tests.image.engine_images [directory]        needs root, buildah and debootstrap; about 25 GB

The second half of `make test-image`, with the first one's base. Their layouts are what counts: torch and FlashInfer
beside Debian's own Python, which pip refuses to change (vllm/vllm-openai, lmsysorg/sglang), or in /opt/venv, made by
uv, without pip; an entry point and a directory of their own; no g++. The engines themselves are not in them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.image.build_images import BASE, Workshop, WrongError, expect, make_base, make_context, outcomes, say

SYSTEM, VENV = "localhost/fitasks-engine-system", "localhost/fitasks-engine-venv"
KERNEL = "page"
TOOLKIT = "cuda-toolkit[nvcc,nvvm,crt,cudart,cccl,cublas,curand,nvrtc]==13.0.*"
_SITE = "/usr/local/lib/python3.11/dist-packages"
_PIP = "--mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf"
_SAYS = "import torch, flashinfer; print(torch.__file__, torch.__version__, flashinfer.__version__)"
_STAND_INS = {
    SYSTEM: f"""
FROM {BASE}
RUN apt-get update -q && apt-get install -yq --no-install-recommends python3 python3-pip
RUN {_PIP} pip install --break-system-packages --quiet uv torch==2.13.0 flashinfer-python==0.7.4
COPY libcudart.so.13 /usr/local/lib/
RUN ldconfig
WORKDIR /vllm-workspace
ENTRYPOINT ["python3", "-c", "{_SAYS}"]
""",
    VENV: f"""
FROM {SYSTEM}
RUN python3 -m venv --without-pip /opt/venv && mv {_SITE}/* /opt/venv/lib/python3.11/site-packages/ \\
 && apt-get purge -yq python3-pip python3-setuptools python3-wheel
ENV PATH=/opt/venv/bin:$PATH
""",
}


def make_stand_in(shop: Workshop, image: str) -> None:
    """One of the layouts, from its lines above."""
    if image in shop.buildah("images", "--format", "{{.Name}}").split():
        return
    context = shop.root / "stand-in"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    (context / "Dockerfile").write_text(_STAND_INS[image])
    library = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "lib", "libcudart.so.13")
    shutil.copy(library, context)  # CPU wheels of torch bring none, and the gate loads the kernels
    with shop.timed(f"stand-in {image}"):
        shop.build(context, "stand-in", f"--tag={image}")


def uv_configuration(shop: Workshop) -> Path:
    """What pip's configuration says of indexes, for uv; of all of them the best is taken, as pip does."""
    text = shop.secret.read_text()
    said = {name: value.split() for name, value in re.findall(r"^([\w-]+) = (.+)$", text, re.MULTILINE)}
    names = [name for name in ("find-links", "extra-index-url", "index-url") if name in said]
    lists = [f"{name} = {said[name] if name != 'index-url' else said[name][0]!r}" for name in names]
    (file := shop.root / "uv.toml").write_text(
        "\n".join(["system-certs = true", 'index-strategy = "unsafe-best-match"', *lists]) + "\n"
    )
    file.chmod(0o600)
    return file


def build(shop: Workshop, base: str, log: str) -> str:
    """The image with kernels, on a stand-in; its name."""
    context, image = make_context(shop, (KERNEL,)), f"{base}-kernels"
    arguments = [f"--build-arg=ENGINE_IMAGE={base}", f"--build-arg=TOOLKIT={TOOLKIT}"]
    uv = ["--secret", f"id=uv,src={uv_configuration(shop)}"]
    with shop.timed(f"Dockerfile.engine on {base}"):
        said = shop.build(context, log, "-f", str(context / "Dockerfile.engine"), f"--tag={image}", *arguments, *uv)
    expect("kernels", set(outcomes(said)), {KERNEL})
    say(f"  kernels: {outcomes(said)}")
    return image


def look_inside(shop: Workshop, base: str, image: str) -> None:
    """What the image had is there as it was, and one package more; its own Python finds the kernels."""
    with shop.container(base) as before, shop.container(image) as after:

        def ask(*words: str, status: int = 0) -> list[str]:
            return [shop.buildah("run", name, "--", *words, status=status).strip() for name in (before, after)]

        find = "find / -xdev -name '*.dist-info' 2>/dev/null | sort; true"
        old, new = (set(said.split()) for said in ask("sh", "-c", find))
        expect("packages that are gone", old - new, set())
        expect(
            "packages that have come", {re.sub(r"-.*", "", Path(one).name) for one in new - old}, {"fitasks_kernels"}
        )
        for words in (["id", "-un"], ["pwd"], ["sh", "-c", "command -v python3 g++; true"], ["python3", "-c", _SAYS]):
            expect(" ".join(words[:2]), *reversed(ask(*words)))
        gate = 'exec "$(cat /opt/fitasks/python)" /opt/fitasks/ahead_of_time.py'
        expect("the gate", "finds all 1 module(s)" in shop.buildah("run", after, "--", "sh", "-c", gate), True)
        expect("FLASHINFER_DISABLE_JIT", shop.buildah("run", after, "--", "printenv", "FLASHINFER_DISABLE_JIT"), "1\n")
    entries = [shop.buildah("inspect", "--format", "{{.OCIv1.Config.Entrypoint}}", name) for name in (base, image)]
    expect("entry point", entries[1], entries[0])


def refusal(shop: Workshop, base: str) -> None:
    """The other Dockerfile, at once: it would hide the image's own environment."""
    context = make_context(shop, (KERNEL,))
    arguments = [f"--build-arg=BUILD_BASE={BASE}", f"--build-arg=RUNTIME_BASE={base}"]
    said = shop.buildah("build", "--layers", "--pull-never", *arguments, context, status=1, log="refused")
    wanted = f"docker build -f Dockerfile.engine --build-arg ENGINE_IMAGE={base} ."
    expect(f"Dockerfile refuses {base}", wanted in said and "pip" not in said, True)


def main(arguments: list[str]) -> int:
    """Build, look, say; the exit status."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("buildah", "debootstrap"))):
        say("make test-image needs root, buildah and debootstrap")
        return 2
    shop = Workshop(Path(*arguments or ["/var/tmp/fitasks-image"]).resolve())
    try:
        make_base(shop)
        for base in (SYSTEM, VENV):
            make_stand_in(shop, base)
            refusal(shop, base)
            look_inside(shop, base, build(shop, base, base.rpartition("/")[2]))
    except (WrongError, subprocess.CalledProcessError) as error:
        say(f"{error}\nlogs: {shop.root}/*.log")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
