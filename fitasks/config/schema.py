"""The structure of kernels.yaml, as pydantic models, and the JSON Schema for editors that is made from them.

`python -m fitasks.config.schema` prints that schema; `--write` renews kernels.schema.json beside this file.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fitasks.config.dtypes import SHORT
from fitasks.config.model import DEFAULT_TIMEOUT, CudartPolicy, Engine
from fitasks.config.problem import BLANK
from fitasks.config.stores import KEY, is_key, unusable

SCHEMA_FILE = Path(__file__).with_name("kernels.schema.json")
ENTRY_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
OP = r"^([a-z0-9_]+|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$"
PACKAGE = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
USER = r"^([A-Za-z0-9_][A-Za-z0-9_.@-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?)?$"  # and group
PARAMETER = r"^[A-Za-z_][A-Za-z0-9_]*$"
_ARCHITECTURE = r"[0-9]{1,2}\.[0-9][a-z]?"
TARGET = rf"^(auto|{_ARCHITECTURE}( {_ARCHITECTURE})*)$"


class _OneOrMore:
    """Makes one value out of a list acceptable for a list of one."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda value: value if isinstance(value, list) else [value], handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        array = handler(schema)
        return {"anyOf": [array["items"], array]}


class _MayBeBlank:
    """`key:` with nothing behind it is an empty mapping: what remains when all lines below are comments."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda value: {} if value is None or value is BLANK else value, handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "null"}]}


def _one_error(value: Any, handler: Any) -> Any:
    """One error for a value that is none of a union's members, instead of one for each member."""
    try:
        return handler(value)
    except ValidationError:
        raise PydanticCustomError("scalar_type", "not a scalar") from None


def _target(value: str) -> str:
    if not re.fullmatch(TARGET, value):
        raise PydanticCustomError("target", "not a target")
    return value


def _store_url(value: str) -> str:
    if why := unusable(value):
        raise PydanticCustomError("store", "{why}", {"why": why})
    return value


def _public_key(value: str) -> str:
    if not is_key(value):
        raise PydanticCustomError("public_key", "not a public key")
    return value


Scalar = Annotated[
    StrictStr | StrictBool | StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)] | None,
    WrapValidator(_one_error),
    WithJsonSchema({"type": ["string", "boolean", "number", "null"]}),
]
Target = Annotated[StrictStr, AfterValidator(_target), WithJsonSchema({"type": "string", "pattern": TARGET})]
Targets = Annotated[list[Target], Field(min_length=1), _OneOrMore()]
Package = Annotated[StrictStr, Field(pattern=PACKAGE)]
Parameter = Annotated[list[Scalar], Field(min_length=1), _OneOrMore()]
StoreUrl = Annotated[StrictStr, AfterValidator(_store_url), WithJsonSchema({"type": "string"})]
PublicKey = Annotated[StrictStr, AfterValidator(_public_key), WithJsonSchema({"type": "string", "pattern": f"^{KEY}$"})]
Env = dict[Annotated[str, Field(pattern=VARIABLE)], StrictStr]

_DTYPE = {"enum": list(SHORT)}
_DTYPES = {"anyOf": [_DTYPE, {"type": "array", "items": _DTYPE, "minItems": 1}]}


class ServingModel(BaseModel):
    """The server that the kernels are for."""

    model_config = ConfigDict(extra="forbid")

    python: StrictStr = Field(default="", description="Its Python interpreter; by default the one that runs doit.")
    engine: Engine = Field(default="none", description="Sets the cache directory that the engine reads.")
    env: Annotated[Env, _MayBeBlank()] = Field(default={}, description="What the server's environment adds.")
    user: Annotated[StrictStr, Field(pattern=USER)] = Field(
        default="", description='Who the server runs as, if not who runs doit: a name, or "1000:1000".'
    )


class EntryModel(BaseModel):
    """One kernel or, where parameters are lists, all their combinations."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Parameter]  # name → its values, one or more

    op: Annotated[StrictStr, Field(pattern=OP)] = Field(
        default="",
        description="FlashInfer's gen_<op>_module, or module:gen_function. By default the entry's name.",
    )


class ModelModel(BaseModel):
    """A model that the server is to serve; its kernels are derived from its config.json and the engine's ways."""

    model_config = ConfigDict(extra="forbid")

    config: StrictStr = Field(description="Path of its config.json, or of the directory of a downloaded model.")
    engine: Literal["sglang", "vllm"] | None = Field(default=None, description="By default serving.engine.")
    version: StrictStr = Field(
        default="", description="The engine's version, such as 0.5.23; the installed one's if it isn't said."
    )
    tensor_parallel: Annotated[StrictInt, Field(ge=1, le=1024)] = Field(default=1, description="GPUs per model.")
    kv_cache_dtype: Literal["auto", "fp8_e4m3", "fp8_e5m2"] = Field(default="auto", description="As the engine's flag.")
    attention_backend: Literal["auto", "flashinfer", "fa3", "triton", "other"] = Field(
        default="auto", description="As the engine's flag; auto is the engine's own choice."
    )
    speculative: StrictBool = Field(default=False, description="Whether speculative decoding is on.")


_YEAR = 366 * 24 * 3600  # in seconds; what is much longer no system call can wait for


class StoreModel(BaseModel):
    """A store of finished kernels elsewhere."""

    model_config = ConfigDict(extra="forbid")

    url: StoreUrl = Field(description="An absolute path, or a URL: s3://, gs://, az://, https://, file:///.")
    push: StrictBool = Field(default=False, description="Whether what is compiled here is put there.")
    trust: Annotated[list[PublicKey], Field(min_length=1), _OneOrMore()] = Field(
        default=[], description="Public keys, as doit keygen says them: what none of them has signed isn't taken."
    )


class _UrlAlone:
    """A URL is short for a store that is only read, whoever writes there."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda value: {"url": value} if isinstance(value, str) else value, handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


class FileModel(BaseModel):
    """The kernels that fitasks compiles before a server needs them."""

    model_config = ConfigDict(extra="forbid", title="kernels.yaml")

    serving: Annotated[ServingModel, _MayBeBlank()] = Field(default=ServingModel())
    targets: Targets = Field(["auto"], description='GPU architectures, one cache each: auto, "9.0a", "8.0 9.0a".')
    sm90: StrictBool = Field(default=True, description="false leaves Hopper-only modules out, for the generic ones.")
    cudart: CudartPolicy = Field(default="patch", description="What to do where libcudart differs from the server's.")
    jobs: Annotated[StrictInt, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Compilers at once; by default as many as cores and memory allow."
    )
    timeout: Annotated[StrictInt, Field(ge=0, le=_YEAR)] = Field(
        default=DEFAULT_TIMEOUT, description="Seconds that one kernel may take to compile; 0 is no limit."
    )
    split_compile: StrictBool = Field(
        default=True, description="Let nvcc optimise the longest files with several threads, where cores would idle."
    )
    generators: Annotated[list[Package], _OneOrMore()] = Field(
        default=[], description="Packages beside FlashInfer whose gen_… functions `op: module:function` may name."
    )
    store: Annotated[list[Annotated[StoreModel, _UrlAlone()]], _OneOrMore()] = Field(
        default=[], description="Stores of finished kernels elsewhere, in the order in which they are asked."
    )
    models: dict[Annotated[str, Field(pattern=ENTRY_NAME)], ModelModel] = Field(
        default={}, description="Models whose kernels are derived; doit explain_models says how."
    )
    kernels: dict[Annotated[str, Field(pattern=ENTRY_NAME)], Annotated[EntryModel, _MayBeBlank()]] = Field(
        default={}, description="Entry name → parameters of its generator; lists make a matrix."
    )


def json_schema() -> str:
    """The JSON Schema (2020-12) of kernels.yaml, as the text of kernels.schema.json."""
    schema = FileModel.model_json_schema()
    serving, entry = schema["$defs"]["ServingModel"], schema["$defs"]["EntryModel"]
    schema["anyOf"] = [{"required": ["kernels"]}, {"required": ["models"]}]
    # What pydantic leaves out: keys that fit no pattern are mistakes, and names that decide about values.
    kernels = schema["properties"]["kernels"]
    kernels |= {"additionalProperties": False}
    del kernels["default"]
    serving["properties"]["env"]["anyOf"][0]["additionalProperties"] = False
    entry |= {"patternProperties": {"^dtype": _DTYPES}, "propertyNames": {"pattern": PARAMETER}}
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | schema, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> None:
    """Print the schema, or write it where the package keeps it."""
    if arguments == ["--write"]:
        SCHEMA_FILE.write_text(json_schema(), encoding="utf-8")
    else:
        sys.stdout.write(json_schema())


if __name__ == "__main__":
    main(sys.argv[1:])
