"""What kernels.yaml leaves unsaid or says in one word, and FlashInfer's attention wants in two.

The planner (serving/plan/plan_parameters.py, ops.py) fills it in, and imports nothing of fitasks: the same rules in
its own words, which tests/config/test_shorthands.py compares with these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

FOLLOWED, FOLLOWERS = "dtype_q", ("dtype_kv", "dtype_o")  # of the same type, where nothing else is said
FOLLOWS = f"={FOLLOWED}"  # a value that is dtype_q's
HEAD_DIM, HEAD_DIMS = "head_dim", ("head_dim_qk", "head_dim_vo")
_UNSAID = ("dtype_idx", "int32")


def goes_without_saying(name: str, value: Any, params: Mapping[str, Any]) -> bool:
    """Return whether the data type `name` is what it is among these parameters where it isn't said."""
    return (name, value) == _UNSAID or (name in FOLLOWERS and value == params.get(FOLLOWED))


def meant(value: Any, params: Mapping[str, Any]) -> Any:
    """Return the value; of one that follows dtype_q the one that it has among these parameters."""
    return params.get(FOLLOWED) if value == FOLLOWS else value


def one_head_dim(names: Collection[str]) -> bool:
    """Return whether head_dim stands for both head dimensions of an op with parameters of these names."""
    return HEAD_DIM not in names and set(HEAD_DIMS) <= set(names)


def shortened(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters with head_dim for two head dimensions that are one."""
    if not one_head_dim(params) or params[HEAD_DIMS[0]] != params[HEAD_DIMS[1]]:
        return params
    return {HEAD_DIM if name == HEAD_DIMS[0] else name: value for name, value in params.items() if name != HEAD_DIMS[1]}
