"""What a call runs in: a trace, an export, a transform, or with numbers to read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._subclasses.fake_tensor import FakeTensor

from pyg_atomenc.errors import AtomEncodingError


def is_jit_tracing() -> bool:
    """Whether torch.jit.trace records operations."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined]


def is_tracing() -> bool:
    """Whether operations are recorded, so that no number may decide anything."""
    return torch.compiler.is_compiling() or is_jit_tracing()


def leaves_package() -> bool:
    """Whether what is recorded runs where nobody knows an operator of this package."""
    if torch.compiler.is_compiling():
        # Inside of it, torch.func's transforms do not see an operator's derivatives.
        transforms = torch._C._are_functorch_transforms_active()
        return transforms or torch.onnx.is_in_onnx_export()
    return is_jit_tracing()


def is_readable(tensor: Tensor) -> bool:
    """Whether a tensor has numbers to look at, rather than a shape alone."""
    return not (is_tracing() or tensor.is_meta or isinstance(tensor, FakeTensor))


def check_readable(name: str, tensor: Tensor, mend: str) -> None:
    """Raise a ValueError if a tensor has a shape alone, or is recorded."""
    if not is_readable(tensor):
        where = "in a trace" if is_tracing() else "of the meta device or a fake tensor"
        raise AtomEncodingError(f"'{name}' is {where}, without numbers: {mend}")


def is_batched(tensor: Tensor) -> bool:
    """Whether a `vmap` runs over a tensor."""
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def unwrapped(name: str, index: Tensor) -> Tensor:
    """Integers out of torch.func's wrappers; ValueError where `vmap` runs over them."""
    if torch.compiler.is_compiling():
        return index
    if is_batched(index):
        raise AtomEncodingError(
            f"'{name}' is what torch.vmap runs over, and sizes would differ: pass one "
            f"for all, with in_dims=None, or join the graphs in a batch of PyG's."
        )
    while functorch.is_functorch_wrapped_tensor(index):
        index = functorch.get_unwrapped(index)
    return index


def draw(function: Callable[[], Tensor]) -> Tensor:
    """What a function draws for dropout; ValueError if a `vmap` does not say how."""
    if torch.compiler.is_compiling():
        return function()
    try:
        return function()
    except RuntimeError as error:
        if not str(error).startswith("vmap:"):
            raise
        raise AtomEncodingError(
            "'dropout' is drawn inside of a vmap that does not say how: pass "
            "randomness='same' or 'different' to torch.vmap or jacfwd (of a Hessian, "
            "jacfwd(jacrev(f), randomness='same')), take strategy='reverse-mode' of "
            "torch.autograd.functional, or call .eval() on the layer."
        ) from error


@contextmanager
def outside_of_transforms() -> Iterator[None]:
    """What runs inside is seen by no transform: all entries of a `vmap` share it."""
    key = torch._C.DispatchKey
    keys = torch._C.DispatchKeySet(key.FuncTorchDynamicLayerFrontMode)
    keys = keys.add(key.FuncTorchDynamicLayerBackMode)
    depth = vmap_depth()
    for _ in range(depth):
        torch._C._vmapmode_decrement_nesting()
    try:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            yield
    finally:
        for _ in range(depth):
            torch._C._vmapmode_increment_nesting()


def vmap_depth() -> int:
    """How many of autograd's own vectorised derivatives this runs inside of."""
    depth = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    return int(depth)


def refuse_script(module: torch.nn.Module) -> NoReturn:
    """What torch.jit.script finds in a layer: the reason why it cannot go on."""
    why = "is not for torch.jit.script, which knows neither layouts nor keywords"
    mend = "use torch.compile, torch.export, or torch.jit.trace with the atoms' index."
    raise AtomEncodingError(f"'{type(module).__name__}' {why}: {mend}")
