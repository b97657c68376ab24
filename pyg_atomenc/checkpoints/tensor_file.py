"""Reading tensors from checkpoints without running what else is in them."""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Union

import torch
from torch import Tensor

from pyg_atomenc.checks import check, check_file, check_type
from pyg_atomenc.errors import FileFormatError, require_package


class _Inert:
    """Stands for an object of any class of the file; takes all, does nothing."""

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        pass

    __init__ = __setstate__ = __setitem__ = append = extend = add = _ignore

    def __call__(self, *args: Any, **kwargs: Any) -> "_Inert":
        return _Inert()


_ADMITTED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): lambda data, *rest: data,
    ("collections", "OrderedDict"): OrderedDict,
}


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds tensors and plain containers; every other class becomes inert."""

    def find_class(self, module: str, name: str) -> Any:
        return _ADMITTED.get((module, name), _Inert)


# `torch.load` takes a module to unpickle with, of which it uses these.
_PICKLE = SimpleNamespace(__name__=__name__, Unpickler=_TensorUnpickler)


def read_tensors(source: Union[str, Path, Mapping[str, Any]]) -> dict[str, Tensor]:
    """Tensors by name of a checkpoint's ``state_dict``, or of itself, on the CPU."""
    mend, kinds = "pass the path of a checkpoint, or its content.", (str, Path, Mapping)
    check_type("path_or_state_dict", source, kinds, mend)  # type: ignore[arg-type]
    read = source if isinstance(source, Mapping) else _read(Path(source))
    content = read if isinstance(read, Mapping) else {}
    inner = content.get("state_dict")
    content = inner if isinstance(inner, Mapping) else content
    named = ((k, v) for k, v in content.items() if isinstance(k, str))
    tensors = {name: value for name, value in named if isinstance(value, Tensor)}
    where = "'path_or_state_dict'" if isinstance(source, Mapping) else source
    mend = "pass a checkpoint or its state_dict."
    check(tensors, f"{where} holds no tensors by name: {mend}")
    return tensors


def _read(path: Path) -> Any:
    check_file(path, path.is_file(), "there is no such file; pass a checkpoint.")
    kind = "safetensors" if path.suffix == ".safetensors" else "a file of torch.save"
    if kind == "safetensors":
        read = require_package("safetensors.torch", "reading .safetensors").load_file
    else:
        read = partial(torch.load, map_location="cpu", pickle_module=_PICKLE)
        # Of memory-mapped files torch takes its zip format alone.
        read = partial(read, weights_only=False, mmap=True)
    try:
        return read(str(path))
    except Exception as error:
        mend = f"maybe cut short ({error}): fetch it anew."
        raise FileFormatError(f"{path}: not readable as {kind}, {mend}") from error
