"""A graph as bytes that hold tensors and text, and nothing that could run.

The bytes are a file of the safetensors format: the length of a header, the header in
JSON, the tensors' numbers. Attributes that are no tensors stand in the metadata of the
header, as JSON. Reading it needs no package, and no pickle.
"""

import json
import math
import zlib
from collections.abc import Sequence
from typing import Any, Union

import torch
from torch import Tensor

from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError, FileFormatError

_FORMAT = "pyg_atomenc graph 1"
_DTYPES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_PLAIN = (str, bool, int, float, type(None))


def to_bytes(data: AtomTokenData) -> bytes:
    """Write a graph.

    Args:
        data (AtomTokenData): With attributes that are tensors, numbers, text, ``None``,
            and lists, tuples and dicts (with text as keys) of these.

    Returns:
        bytes: The record, a safetensors file.

    Raises:
        ValueError: If ``data`` is something else, or an attribute is, which is named.
    """
    if not isinstance(data, AtomTokenData):
        raise AtomEncodingError(
            f"'data' is of type {type(data).__name__}: only AtomTokenData is stored; "
            f"turn it into other types at access, with 'transform'."
        )
    tensors: dict[str, Tensor] = {}
    attributes = {
        key: _pack(key, value, tensors) for key, value in data.to_dict().items()
    }
    header: dict[str, Any] = {
        "__metadata__": {"format": _FORMAT, "attributes": json.dumps(attributes)}
    }
    # The widest numbers first, so that all of them are aligned.
    names = sorted(tensors, key=lambda name: -tensors[name].element_size())
    numbers = []
    end = 0
    for name in names:
        tensor = tensors[name]
        content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        begin, end = end, end + len(content)
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        numbers.append(content)
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *numbers])


def from_bytes(
    content: Union[bytes, bytearray], where: str, checksum: int
) -> AtomTokenData:
    """Read a graph.

    Args:
        content (bytes or bytearray): The record. The tensors share the memory of a
            bytearray; bytes are copied.
        where (str): What to call the record in errors; starts with the file's name.
        checksum (int): What :func:`checksum_of` said of the record.

    Returns:
        AtomTokenData: Equal to the one that was written, on the CPU.

    Raises:
        ValueError: If the record is damaged, or not one of this package.
    """
    if checksum_of(content) != checksum:
        raise FileFormatError(
            f"{where}: is damaged, its checksum is wrong. Delete the file, so that it "
            f"is made anew."
        )
    try:
        return _parse(bytearray(content) if isinstance(content, bytes) else content)
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise FileFormatError(
            f"{where}: is damaged, or no graph of pyg_atomenc ({reason}). Delete the "
            f"file, so that it is made anew."
        ) from error


def checksum_of(content: Union[bytes, bytearray]) -> int:
    """What tells damaged bytes from whole ones; no protection against forgery."""
    return zlib.crc32(content)


def _pack(path: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for a value: what is no number, text or list is a dict with one kind."""
    if isinstance(value, _PLAIN):
        return value
    if type(value) in (Tensor, torch.nn.Parameter):
        if value.layout != torch.strided or value.dtype not in _NAMES:
            raise AtomEncodingError(
                f"'{path}' is a tensor of {value.dtype} and {value.layout}, which is "
                f"not stored: make it dense, and of one of {sorted(_NAMES.values())}."
            )
        tensors[path] = value.detach().cpu().contiguous()
        return {"tensor": path}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        items = (
            list(value)
            if _is_text(value)
            else [_pack(f"{path}.{i}", item, tensors) for i, item in enumerate(value)]
        )
        return items if isinstance(value, list) else {"tuple": items}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {k: _pack(f"{path}.{k}", v, tensors) for k, v in value.items()}}
    raise AtomEncodingError(
        f"'{path}' is of type {type(value).__name__}, which is not stored, since it "
        f"could not be read back safely: make it a tensor, a number, text, or lists "
        f"and dicts of these."
    )


def _parse(content: bytearray) -> AtomTokenData:
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > len(content) - 8:
        raise AtomEncodingError("it is cut short")
    header = json.loads(content[8 : 8 + size])
    metadata = header.pop("__metadata__")
    if metadata["format"] != _FORMAT:
        raise AtomEncodingError(f"its format is {metadata['format']!r}")
    tensors = {
        name: _tensor(content, 8 + size, **entry) for name, entry in header.items()
    }
    data = AtomTokenData()
    for key, value in json.loads(metadata["attributes"]).items():
        if key.startswith("_"):
            raise AtomEncodingError(f"an attribute is named {key!r}")
        data[key] = _unpack(value, tensors)
    if "atom_to_token" in data:
        # Whoever wrote it: no token out of range gets to the layers.
        AtomTokenData(
            atom_to_token=data.atom_to_token, num_tokens=data.total_num_tokens
        )
    return data


def _tensor(
    content: bytearray,
    start: int,
    dtype: str,
    shape: list[int],
    data_offsets: list[int],
) -> Tensor:
    kind = _DTYPES[dtype]
    begin, end = data_offsets
    count = math.prod(shape)
    if (
        not all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        or end - begin != count * kind.itemsize
        or start + end > len(content)
    ):
        raise AtomEncodingError(f"a tensor of shape {shape} is cut short")
    if count == 0:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(
        content, dtype=kind, count=count, offset=start + begin
    ).view(shape)


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        if _is_text(value):
            return value
        return [_unpack(item, tensors) for item in value]
    if isinstance(value, dict):
        ((kind, content),) = value.items()
        if kind == "tensor":
            return tensors[content]
        if kind == "tuple":
            return tuple(_unpack(item, tensors) for item in content)
        if kind == "dict":
            return {key: _unpack(item, tensors) for key, item in content.items()}
        raise AtomEncodingError(f"it holds a {kind!r}")
    return value


def _is_text(items: Sequence[Any]) -> bool:
    # Names of atoms are long lists, so no loop in Python.
    return set(map(type, items)) <= {str}
