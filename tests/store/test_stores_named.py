"""Which stores a run asks: by kernels.yaml and by FITASKS_STORE."""

from __future__ import annotations

from pathlib import Path

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.config.load import load_config
from fitasks.config.stores import StoreRequest, is_key, shortest, unusable
from fitasks.store.elsewhere import requested
from fitasks.store.local import Store, words

A, B = (f"ed25519:{letter * 43}=" for letter in "AB")


@pytest.mark.parametrize(
    "url",
    [
        "/nfs/fi",
        "file:///nfs/fi",
        "s3://bucket/fi",
        "gs://bucket",
        "az://account/c/p",
        "http://h:8080/a",
        "https://[::1]/",
    ],
)
def test_what_can_be_a_store(url: str) -> None:
    assert unusable(url) == ""


@pytest.mark.parametrize(
    "url",
    ["", "fi", "./fi", "~/fi", "ftp://h/a", "s3:bucket", "s3://", "file://host/a", "http://", "http://h:x/", "http://h:99999/",
     "http://u:p@h/", "http://u@h/", "https://h/a?X-Amz-Signature=1", "https://h/a#f", "/a/../b", "s3://b/../c", "/a b", "/a,b",
     "/a\nb", "/a\x1b[2J", "/ä", "s3://b/a%2e%2e/", "memory:///", "http://[::1/"],
)  # fmt: skip
def test_what_cannot_and_no_sentence_shows_it(url: str) -> None:
    why = unusable(url)
    assert why
    assert "u:p" not in why
    assert "Signature" not in why


def test_keys() -> None:
    assert [is_key(word) for word in (A, A[:-1], A + "=", "rsa:" + A[8:], "", A.replace("A", "é"))] == [
        True,
        *[False] * 5,
    ]


def test_as_kernels_yaml_has_them(tmp_path: Path) -> None:
    file = tmp_path / "kernels.yaml"
    rest = "kernels: {page: {}}\n"
    assert _stores(file, rest) == ()
    assert _stores(file, "store: s3://bucket/fi\n" + rest) == (StoreRequest("s3://bucket/fi"),)
    text = f"store:\n- /nfs/fi\n- url: https://host/fi\n  push: true\n  trust: ['{A}', '{B}']\n- {{url: gs://b, trust: '{A}'}}\n"
    assert _stores(file, text + rest) == (
        StoreRequest("/nfs/fi"),
        StoreRequest("https://host/fi", push=True, trust=(A, B)),
        StoreRequest("gs://b", trust=(A,)),
    )


def _stores(file: Path, text: str) -> tuple[StoreRequest, ...]:
    file.write_text(text)
    return load_config(file).stores


def test_the_environment_comes_first_and_each_store_once() -> None:
    configured = (StoreRequest("s3://b/fi/", push=True), StoreRequest("/nfs/fi"))
    assert requested(configured, {}) == configured
    env = {"FITASKS_STORE": "gs://near, shared s3://b/fi\tfile:///nfs/fi"}
    assert [one.url for one in requested(configured, env)] == ["gs://near", "s3://b/fi", "file:///nfs/fi"]
    assert [one.push for one in requested(configured, env)] == [False, True, False]
    assert [one.push for one in requested((), env | {"FITASKS_STORE_PUSH": "1"})] == [True] * 3
    assert words(env) == ["gs://near", "shared", "s3://b/fi", "file:///nfs/fi"]


def test_a_variable_does_not_end_what_kernels_yaml_asks_for() -> None:
    """Signatures, above all."""
    configured = (StoreRequest("s3://b/fi", trust=(A,)),)
    env = {"FITASKS_STORE": "/nfs/fi s3://b/fi"}
    assert [one.trust for one in requested(configured, env)] == [(A,), (A,)]
    assert [one.trust for one in requested(configured, env | {"FITASKS_STORE_TRUST": B})] == [(B,), (A,)]
    assert [one.trust for one in requested((), env | {"FITASKS_STORE_TRUST": f"{A},{B}"})] == [(A, B), (A, B)]


@pytest.mark.parametrize(
    "env", [{"FITASKS_STORE": "https://u:geheim@h/"}, {"FITASKS_STORE": "fi"}, {"FITASKS_STORE_TRUST": "x"}]
)
def test_what_cannot_be_used_is_told(env: dict[str, str]) -> None:
    with pytest.raises(EnvironmentProblem) as told:
        requested((), {"FITASKS_STORE": "/nfs/fi"} | env)
    assert "geheim" not in str(told.value)
    assert told.value.remedy


def test_the_own_store_is_shared_where_that_is_one_of_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, shared in (("", False), ("shared", True), ("s3://b shared", True), ("/nfs/shared", False)):
        monkeypatch.setenv("FITASKS_STORE", said)
        assert Store.of({"HOME": "/root"}).shared == shared
    assert shortest("file:///nfs/fi/") == shortest("/nfs/fi") == "/nfs/fi"
