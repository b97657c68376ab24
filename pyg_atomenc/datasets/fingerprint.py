"""Telling one set of options from another, without keeping either."""

import copyreg
import functools
import hashlib
import inspect
import sys
import types
from typing import Any

import numpy as np
import torch

# Of their classes the name is enough; versions of this package are told apart anyway.
_LIBRARIES = {*sys.stdlib_module_names, "numpy", "torch", "torch_geometric"}
_LIBRARIES.add("pyg_atomenc")
_PLAIN = (str, bytes, bool, int, float, complex, type(None))


def fingerprint(*parts: Any) -> str:
    """A short text that is the same for the same options in every run.

    Args:
        *parts: Anything that :func:`describe` describes.

    Returns:
        str: 16 hexadecimal digits.
    """
    return _digest(describe(parts).encode())


def describe(value: Any) -> str:
    """Say what a value is, by its content and not by its address.

    Functions are described by their name, code, defaults, what they close over, and
    the plain values that they read from their module; objects by their class, its
    methods (of a library's class the name alone) and their attributes. What a function
    calls is not looked into.

    Args:
        value (Any): Numbers, text, tensors, containers, functions, objects.

    Returns:
        str: The description.
    """
    return _describe(value, ())


def _describe(value: Any, inside: tuple[int, ...]) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in inside:
        return "…"
    inside = (*inside, id(value))
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_describe(item, inside) for item in value) + "]"
    if isinstance(value, (set, frozenset)):
        return "{" + ",".join(sorted(_describe(item, inside) for item in value)) + "}"
    if isinstance(value, dict):
        pairs = [_describe(pair, inside) for pair in value.items()]
        # Their order may matter, as for the patterns of Smarts.
        return "dict{" + ",".join(pairs) + "}"
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        content = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"tensor({value.dtype},{list(value.shape)},{_digest(content)})"
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"array({value.dtype},{value.shape},{_digest(value.tobytes())})"
    if isinstance(value, types.CodeType):
        code = [value.co_code, value.co_names, value.co_consts]
        return f"code{_describe(code, inside)}"
    if isinstance(value, types.FunctionType):
        return _describe_function(value, inside)
    if isinstance(value, types.MethodType):
        return f"{_describe(value.__self__, inside)}.{value.__func__.__name__}"
    if isinstance(value, functools.partial):
        bound = [value.func, value.args, value.keywords]
        return f"partial{_describe(bound, inside)}"
    if isinstance(value, (type, types.BuiltinFunctionType)):
        return f"{value.__module__}.{value.__qualname__}"
    return _describe_object(value, inside)


def _describe_function(function: types.FunctionType, inside: tuple[int, ...]) -> str:
    seen = inspect.getclosurevars(function)
    read = {k: v for k, v in seen.globals.items() if isinstance(v, (*_PLAIN, tuple))}
    parts = (
        function.__code__,
        function.__defaults__,
        function.__kwdefaults__,
        dict(seen.nonlocals),
        read,
    )
    return f"{function.__module__}.{function.__qualname__}{_describe(parts, inside)}"


def _describe_object(value: Any, inside: tuple[int, ...]) -> str:
    kind = type(value)
    methods: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.split(".")[0] not in _LIBRARIES:
            own = vars(base).items()
            methods |= {k: v for k, v in own if isinstance(v, types.FunctionType)}
    content = _describe([_content(value), methods], inside)
    return f"{kind.__module__}.{kind.__qualname__}({content})"


def _content(value: Any) -> Any:
    """What pickle would write of an object; nothing is pickled."""
    try:
        known = copyreg.dispatch_table.get(type(value))
        reduced = known(value) if known else value.__reduce_ex__(2)
    except Exception:
        return vars(value) if hasattr(value, "__dict__") else None
    if isinstance(reduced, str):
        return reduced
    # Behind the function that makes it: arguments, state, and iterators over items.
    arguments, state, *items = [*reduced[1:], None][: max(2, len(reduced) - 1)]
    return [arguments, state, [list(part or ()) for part in items]]


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
