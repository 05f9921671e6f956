"""Whole files that are wrong, and the whole text that a user then reads."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fitasks.base.errors import ConfigError
from fitasks.config.load import load_config
from fitasks.config.structure import _sound_part

OK = "kernels: {page: {}}\n"
KNOWN = "float16, bfloat16, float32, float8_e4m3fn, float8_e5m2, float4_e2m1fn_x2, int8, uint8, int16, int32, uint32, int64, uint64"
TARGETS = 'accepted: auto, or text such as "9.0a" or "8.0 9.0a", in quotes, with single spaces'
LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def mistakes(text: str | bytes) -> list[str]:
    data = text if isinstance(text, bytes) else text.encode()
    Path("kernels.yaml").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load_config(Path("kernels.yaml"))
    assert caught.value.exit_status == 2
    assert str(caught.value) == "\n".join(caught.value.problems)
    return [problem.removeprefix("kernels.yaml:") for problem in caught.value.problems]


CASES = {
    "store, with a password": (
        "store: https://me:geheim@host/fi\n" + OK,
        "1:8: store.url: credentials don't belong into a store's URL, which is shown: give them as the environment variables of the service (AWS_ACCESS_KEY_ID, GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY, …)",
    ),
    "store, with a signature": (
        "store: [{url: 'https://host/fi?sig=geheim'}]\n" + OK,
        "1:15: store.url: credentials don't belong into a store's URL, which is shown: give them as the environment variables of the service (AWS_ACCESS_KEY_ID, GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY, …)",
    ),
    "store, a relative path": (
        "store: shared/kernels\n" + OK,
        "1:8: store.url: not a store; expected an absolute path, or a URL such as file:///directory, s3://bucket/prefix, gs://bucket/prefix, az://account/container/prefix, http://host/prefix, https://host/prefix",
    ),
    "store, without a bucket": ("store: s3:///prefix\n" + OK, "1:8: store.url: expected s3://bucket/prefix"),
    "store, a way up": ("store: /nfs/../etc\n" + OK, "1:8: store.url: a store's path has no `.` and `..`, and no %, ? or #"),
    "store, a number": (
        "store: [3]\n" + OK,
        "1:9: store: found the number 3; expected a URL, or a mapping of url, push, trust",
    ),
    "store, no keys": (
        "store: {url: /nfs/fi, trust: []}\n" + OK,
        "1:30: store.trust: an empty list; write one value or more, or leave the key out",
    ),
    "store, without a URL": ("store: {push: true}\n" + OK, "1:8: store.url: no url; it takes url, push, trust"),
    "store, an unknown key": (
        "store: {url: /nfs/fi, pusch: true}\n" + OK,
        "1:23: store.pusch: unknown key; store takes url, push, trust (did you mean push?)",
    ),
    "store, no key": (
        "store: {url: /nfs/fi, trust: ed25519:geheim}\n" + OK,
        "1:30: store.trust: found 'ed25519:geheim'; expected a public key as `doit keygen` says it, ed25519: and 44 letters",
    ),
    "op of another package": (
        "kernels: {a: {op: 'os:gen_x'}}",
        "1:19: kernels.a.op: 'os:gen_x' isn't FlashInfer's; to have its generators called, write at the top: generators: [os]",
    ),
    "op that is no generator": (
        "generators: [os]\nkernels: {a: {op: 'os:system'}}",
        "2:19: kernels.a.op: 'os:system' is no generator, and only generators are called: functions named gen_…",
    ),
    "op of FlashInfer that makes many modules": (
        "kernels: {b: {op: 'flashinfer.jit:gen_jit_specs'}}",
        "1:19: kernels.b.op: 'flashinfer.jit:gen_jit_specs' is no generator, and only generators are called: functions named gen_…",
    ),
    "op that is no function of SGLang's JIT": (
        "kernels: {b: {op: 'sglang.srt.utils:run'}}",
        "1:19: kernels.b.op: 'sglang.srt.utils:run' is no function of SGLang's JIT: those are in sglang.jit_kernel or sglang.kernels, or called _jit_…",
    ),
    "generators, a file name": (
        "generators: [my-fork]\n" + OK,
        "1:14: generators: 'my-fork' is no package; expected the name that Python imports it by, such as my_fork",
    ),
    "generators, a path": (
        "generators: ../x\n" + OK,
        "1:13: generators: '../x' is no package; expected the name that Python imports it by, such as my_fork",
    ),
    "generators, a number": (
        "generators: [3]\n" + OK,
        '1:14: generators: found the number 3; expected text, quote it: "3"',
    ),
    "unknown key, top": (
        OK + "target: [auto]\n",
        "2:1: target: unknown key; the file takes serving, targets, sm90, cudart, jobs, timeout, split_compile, generators, store, models, kernels (did you mean targets?)",
    ),
    "unknown key, serving": (
        OK + "serving:\n  pyton: x\n",
        "3:3: serving.pyton: unknown key; serving takes python, engine, env, user (did you mean python?)",
    ),
    "engine": (
        OK + "serving: {engine: SGLang }",
        "2:19: serving.engine: found 'SGLang'; accepted: sglang, vllm, none (did you mean sglang?)",
    ),
    "user, a number": (
        OK + "serving: {user: 1000}",
        '2:17: serving.user: found the number 1000; expected text, quote it: "1000"',
    ),
    "user, of two words": (
        OK + "serving: {user: www data}",
        '2:17: serving.user: \'www data\' is no user; expected a name such as nobody, or numbers such as "1000:1000"',
    ),
    "cudart, a boolean of YAML's": (
        OK + "cudart: off",
        "2:9: cudart: found the boolean off; accepted: patch, check, ignore",
    ),
    "timeout, of three thousand years": (
        OK + "timeout: 99999999999",
        "2:10: timeout: found the number 99999999999; expected a whole number of seconds, at most a year; 0 for no limit",
    ),
    "python, a number": (
        OK + "serving: {python: 3.10}",
        '2:19: serving.python: found the number 3.10; expected text, quote it: "3.10"',
    ),
    "env, a number": ("serving: {env: {A: 1}}\n" + OK, '1:20: serving.env.A: found the number 1; expected text, quote it: "1"'),
    "env, a boolean": ("serving: {env: {A: on}}\n" + OK, '1:20: serving.env.A: found the boolean on; expected text, quote it: "on"'),
    "env, its name": (
        "serving: {env: {A-B: x}}\n" + OK,
        "1:17: serving.env.A-B: a variable's name consists of letters, digits and `_`, first not a digit",
    ),
    "env, a list": (
        "serving: {env: [A=1]}\n" + OK,
        "1:16: serving.env: found a list; expected a mapping of variable names to text",
    ),
    "sm90": (OK + "sm90: 'yes'", "2:7: sm90: found 'yes'; expected true or false"),
    "target, a float": (OK + "targets: [9.0]", f'2:11: targets: found the number 9.0; {TARGETS} (did you mean "9.0"?)'),
    "target, semicolon": (OK + "targets: '8.0;9.0a'", f"2:10: targets: found '8.0;9.0a'; {TARGETS} (did you mean \"8.0 9.0a\"?)"),
    "target, comma": (OK + "targets: ['8.0, 9.0a']", f"2:11: targets: found '8.0, 9.0a'; {TARGETS} (did you mean \"8.0 9.0a\"?)"),
    "target, two spaces": (OK + "targets: [8.0  9.0a]", f"2:11: targets: found '8.0  9.0a'; {TARGETS} (did you mean \"8.0 9.0a\"?)"),
    "target, as nvcc": (OK + "targets: [sm_90a]", f"2:11: targets: found 'sm_90a'; {TARGETS} (did you mean \"9.0a\"?)"),
    "target, misspelt": (OK + "targets: Auto", f"2:10: targets: found 'Auto'; {TARGETS} (did you mean \"auto\"?)"),
    "target, mapping": (OK + "targets: {a: 1}", f"2:10: targets: found a mapping; {TARGETS}"),
    "target twice": (
        OK + "targets: ['9.0', '8.0', 9.0a]",
        '2:25: targets: "9.0a" means the same architectures as "9.0" at kernels.yaml:2:11; keep one of them',
    ),
    "targets in another order": (
        OK + "targets: ['8.0 10.0', 10.0a 8.0]",
        '2:23: targets: "10.0a 8.0" means the same architectures as "8.0 10.0" at kernels.yaml:2:11; keep one of them',
    ),
    "no target": (OK + "targets: []", "2:10: targets: an empty list; write one value or more, or leave the key out"),
    "duplicate key": (
        "kernels:\n  page:\n    a: 1\n    a: 2\n",
        "4:5: kernels.page.a: duplicate key, first at kernels.yaml:3:5; keep one of them",
    ),
    "key, a number": ("kernels:\n  9: {op: page}\n  page:\n", '2:3: kernels: the key 9 is not text in YAML; quote it: "9"'),
    "key, a list": ("kernels:\n  ? [a]\n  : 1\n  page:\n", "2:5: kernels: a list or mapping as key; keys are text"),
    "entry's name": (
        "kernels:\n  a=b: {op: page}\n",
        "2:3: kernels.'a=b': an entry's name consists of letters, digits, `_`, `.` and `-`, first a letter or digit",
    ),
    "entry's name is no op": (
        "kernels: {decode-2: {x: 1}}",
        "1:11: kernels.decode-2: its name is no op, so it needs `op:`, the middle of gen_<op>_module, such as batch_prefill",
    ),
    "op": (
        "kernels: {a: {op: BatchPrefill}}",
        "1:19: kernels.a.op: 'BatchPrefill' is no op; expected the middle of gen_<op>_module, such as batch_prefill, or module.path:gen_function",
    ),
    "op, a list": ("kernels: {a: {op: [page]}}", "1:19: kernels.a.op: found a list; expected text"),
    "entry, text": ("kernels: {a: fa3}", "1:14: kernels.a: found 'fa3'; expected a mapping of parameters, or nothing"),
    "parameter's name": (
        "kernels: {a: {head-dim: 1}}",
        "1:15: kernels.a.head-dim: not a parameter's name; those are letters, digits and `_` (did you mean head_dim?)",
    ),
    "empty list": ("kernels: {a: {x: []}}", "1:18: kernels.a.x: an empty list; write one value or more, or leave the key out"),
    "no value": ("kernels:\n  a:\n    x:\n", "3:7: kernels.a.x: no value; write one (null for None), or leave the key out"),
    "list in a list": ("kernels: {a: {x: [1, [2]]}}", "1:22: kernels.a.x: found a list; expected text, a number, true or false, or a list of these"),
    "mapping as value": ("kernels: {a: {x: {y: 1}}}", "1:18: kernels.a.x: found a mapping; expected text, a number, true or false, or a list of these"),
    "not a number": ("kernels: {a: {x: .nan}}", "1:18: kernels.a.x: found the number .nan; expected a finite number"),
    "too large": ("kernels: {a: {x: 99999999999999999999}}", "1:18: kernels.a.x: a number that does not fit 64 bits; write a smaller one"),
    "too long": (f"kernels: {{a: {{x: {'1:' * 100_000}1}}}}", "1:18: kernels.a.x: a number of 200001 characters; write a shorter one"),
    "a date": ("kernels: {a: {x: 2024-01-01}}", '1:18: kernels.a.x: 2024-01-01 is a date in YAML; quote it: "2024-01-01"'),
    "a tag": ("kernels: {a: !!python/object:os.system {}}", "1:14: kernels.a: the tag !!python/object:os.system means nothing here; leave it out"),
    "a wrong tag": ("kernels: {a: {x: !!int b}}", "1:18: kernels.a.x: 'b' is not what its tag !!int says"),
    "value twice": ("kernels: {a: {x: [1, 2, 1]}}", "1:25: kernels.a.x: 1 stands twice in the list; keep one"),
    "dtype": ("kernels: {a: {dtype_q: bfloat61}}", f"1:24: kernels.a.dtype_q: unknown data type 'bfloat61'; known are {KNOWN} (did you mean bfloat16?)"),
    "dtype, a number": ("kernels: {a: {dtype_q: 16}}", "1:24: kernels.a.dtype_q: found the number 16; expected a data type such as bfloat16"),
    "same label, two entries": (
        "kernels:\n  a-b: {op: page}\n  a: {op: page, x: b}\n",
        "3:3: kernels.a: makes a kernel named a-b, as does kernels.a-b at kernels.yaml:2:3; rename one of the entries",
    ),
    "same label, one entry": (
        "kernels:\n  a: {x: [0, null]}\n",
        "2:10: kernels.a.x: 0 and None at kernels.yaml:2:10 make two kernels named a; move one of them to an entry of its own",
    ),
    "large matrix": (
        "kernels: {a: {x: &x [1,2,3,4,5,6,7,8,9,10,11], y: *x, z: *x, w: *x}, page: {}}",
        "1:11: kernels.a: its lists make 14,641 kernels; 10,000 is the limit, shorten a list",
    ),
    "control character escaped": ('kernels: {a: {x: "b\\x00"}}', "1:18: kernels.a.x: text with the control character U+0000; remove it"),
    "lone surrogate": ('kernels: {a: {x: "\\ud800"}}', "1:18: kernels.a.x: text with the control character U+D800; remove it"),
    "merge of text": ("kernels: {a: {<<: b}}", "1:15: kernels.a.'<<': merges something else than a mapping; write <<: *anchor"),
    "no kernels": ("sm90: true\n", "1:1: kernels: no kernels; add at least one entry, for example `sampling: {}`; `{}` is none yet"),
    "kernels blank": ("kernels:\n", "1:9: kernels: found nothing; expected a mapping of entry names to parameters"),
    "empty": ("", "1:1: the file is empty; write `kernels:` with at least one entry, for example `sampling: {}`"),
    "comments": ("# nothing\n", "1:1: the file is empty; write `kernels:` with at least one entry, for example `sampling: {}`"),
    "a list": ("- page\n", "1:1: found a list; expected keys such as serving, targets and kernels"),
    "text": ("page\n", "1:1: found 'page'; expected keys such as serving, targets and kernels"),
    "tab": ("kernels:\n\tpage:\n", "2:1: a tab; YAML is indented with spaces only"),
    "indentation": ("kernels:\n  page:\n page:\n", "3:2: out of line with what is above; check the indentation"),
    "no colon": ("kernels:\n  page:\n  x\nsm90: true\n", "4:1: a key without `:`; write `key: value`"),
    "brackets": ("kernels: {a: {x: [1, 2}}", "1:23: a `,` or a closing bracket is missing before this"),
    "alias of nothing": ("kernels: *k\n", "1:10: not YAML: found undefined alias 'k'"),
    "two documents": (OK + "---\n" + OK, "2:1: a second YAML document; a file holds one, remove the `---`"),
    "NUL": ("kernels:\n  a\0b: 1\n", "2:4: control character U+0000; YAML is printable text, remove it"),
    "escape": ('a: "\\UFFFFFFFF"', "1:7: an escape or directive that means nothing; correct or remove it"),
    "Latin 1": ("# \xe4\nsm90: \xe9\n".encode("latin-1"), "1:3: not UTF-8: byte 0xE4 at offset 2; save as UTF-8"),
    "Latin 1 behind UTF-8 and a BOM": (b"\xef\xbb\xbf# \xc3\xa4\n\xc3\xa4\xe9: 1\n", "2:2: not UTF-8: byte 0xE9 at offset 10; save as UTF-8"),
    "recursion": ("kernels: &k [*k]", "1:14: an alias inside the very thing it names; simplify the file"),
    "depth": ("[" * 100_000, "1:41: nested deeper than 40 levels; simplify the file"),
    "billion laughs": (LAUGHS, "5:4: more than 20,000 values, aliases written out; simplify the file"),
    "chain": (
        "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [[[[*a{i - 1}]]]]\n" for i in range(1, 50)),
        "11:12: nested deeper than 40 levels, aliases written out; simplify the file",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), CASES.values(), ids=CASES.keys())
def test_one_mistake(text: str | bytes, message: str) -> None:
    assert mistakes(text) == [message]


@pytest.mark.parametrize(
    ("written", "meant"),
    {
        "bf16": "bfloat16",
        "BFloat16": "bfloat16",
        "fp16": "float16",
        "half": "float16",
        "torch.half": "float16",
        "fp8": "float8_e4m3fn",
        "e4m3": "float8_e4m3fn",
        "fp8_e4m3": "float8_e4m3fn",
        "e5m2": "float8_e5m2",
        "fp32": "float32",
    }.items(),
)
def test_dtype_aliases(written: str, meant: str) -> None:
    assert mistakes(f"kernels: {{a: {{dtype_kv: {written}}}}}") == [
        f"1:25: kernels.a.dtype_kv: unknown data type '{written}'; known are {KNOWN} (did you mean {meant}?)"
    ]


def test_all_at_once_in_file_order() -> None:
    text = (
        "kernels:\n"
        "  a: {dtype_q: [fp16, bfloat16], x: [], op: 1}\n"
        "  b: {y: 1, y: 2}\n"
        "  c-d: {op: page}\n"
        "  c: {op: page, x: d}\n"
        "targets: ['9.0', 9.0a, 8]\n"
        "cudart: ptch\n"
        "colour: red\n"
    )
    assert mistakes(text) == [
        f"2:17: kernels.a.dtype_q: unknown data type 'fp16'; known are {KNOWN} (did you mean float16?)",
        "2:37: kernels.a.x: an empty list; write one value or more, or leave the key out",
        '2:45: kernels.a.op: found the number 1; expected text, quote it: "1"',
        "3:13: kernels.b.y: duplicate key, first at kernels.yaml:3:7; keep one of them",
        "5:3: kernels.c: makes a kernel named c-d, as does kernels.c-d at kernels.yaml:4:3; rename one of the entries",
        '6:18: targets: "9.0a" means the same architectures as "9.0" at kernels.yaml:6:11; keep one of them',
        f"6:24: targets: found the number 8; {TARGETS}",
        "7:9: cudart: found 'ptch'; accepted: patch, check, ignore (did you mean patch?)",
        "8:1: colour: unknown key; the file takes serving, targets, sm90, cudart, jobs, timeout, split_compile, generators, store, models, kernels",
    ]


def test_a_merged_mistake_is_told_once() -> None:
    assert mistakes("kernels:\n  a: &a {x: []}\n  b: {<<: *a, op: page}\n") == [
        "2:13: kernels.a.x: an empty list; write one value or more, or leave the key out"
    ]


def test_an_alias_is_where_it_is_used() -> None:
    assert mistakes("kernels:\n  a: {x: &x 1}\n  b: {dtype_q: *x}\n") == [
        "3:7: kernels.b.dtype_q: found the number 1; expected a data type such as bfloat16"
    ]


def test_a_value_that_replaces_a_merged_list_has_its_own_place() -> None:
    assert mistakes("kernels:\n  a: &a {dtype_q: [float16, int8]}\n  b: {<<: *a, op: page, dtype_q: 16}\n") == [
        "3:34: kernels.b.dtype_q: found the number 16; expected a data type such as bfloat16"
    ]


def entries(count: int) -> str:
    return "kernels:\n" + "".join(f"  a{number}: 3\n" for number in range(count))


def test_mistakes_cost_what_they_are_many() -> None:
    """20,000 take a fraction of a second; where each copies all the others it is ten."""
    names = [f"a{number}" for number in range(20_000)]
    begin = time.process_time()
    assert _sound_part({"kernels": dict.fromkeys(names, 3)}, [("kernels", name) for name in names]) == {"kernels": {}}
    parameters: list[tuple[str | int, ...]] = [("kernels", "a", name) for name in names]
    assert _sound_part({"kernels": {"a": dict.fromkeys(names, 3)}}, parameters) == {"kernels": {"a": {}}}
    assert time.process_time() - begin < 2


@pytest.mark.parametrize("values", ["1", "[]", "bf17", "1, {a: b}"])
def test_a_list_that_is_too_long_is_refused_before_its_end(values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 240 kB only as many values are read as are allowed."""
    monkeypatch.setattr("fitasks.config.compose._MOST_NODES", 1000)
    text = f"kernels:\n  page:\n    dtype_q: [{', '.join([values] * (240_000 // (len(values) + 2)))}]\n"
    (said,) = mistakes(text)
    assert "more than 20,000 values, aliases written out; simplify the file" in said
    assert 1000 < int(said.split(":")[1]) < 12_000  # the column


def test_the_first_hundred_mistakes_are_told() -> None:
    said = mistakes(entries(300))
    assert len(said) == 101
    assert said[0] == "2:7: kernels.a0: found the number 3; expected a mapping of parameters, or nothing"
    assert said[99].startswith("101:8: kernels.a99: ")
    assert said[100] == "more than 100 mistakes; correct these first"
    assert len(mistakes(f"kernels: {{page: {{dtype_q: [{', '.join(f'bf{n}' for n in range(300))}]}}}}")) == 101


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo("pipe")
    with pytest.raises(ConfigError) as caught:
        load_config(Path("pipe"))
    assert str(caught.value) == "pipe is a pipe; name a regular file"
