"""Checks of graphs that several parts of the package share."""

from typing import Any

from pyg_atomenc.data.atom_token_data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError


def check_graph(data: Any) -> None:
    """Raise a ValueError unless this is a graph of atoms with tokens and true bonds."""
    check_atoms(data)
    if "atom_to_token" not in data:
        raise AtomEncodingError(
            "'atom_to_token' is missing from the data: set it to the token of every "
            "atom, for example torch.arange(num_atoms)."
        )
    edges, count = data.edge_index, data.atom_to_token.numel()
    if edges is not None and (edges.dim() != 2 or edges.size(0) != 2):
        raise AtomEncodingError(
            f"'edge_index' has shape {list(edges.shape)}: pass bonds as [2, E]."
        )
    if edges is not None and edges.is_floating_point():
        raise AtomEncodingError(
            f"'edge_index' is of {edges.dtype}: pass the numbers of atoms as integers."
        )
    if edges is not None and edges.numel():
        low, high = int(edges.min()), int(edges.max())
        if low < 0 or high >= count:
            raise AtomEncodingError(
                f"'edge_index' has values from {low} to {high} for {count} atoms: they "
                f"must lie in [0, num_atoms)."
            )
    rows = {"edge_attr": 0 if edges is None else edges.size(1)}
    rows |= dict.fromkeys(("z", "pos", "formal_charge", "num_hydrogens"), count)
    rows["token_pos"] = data.total_num_tokens
    for name, expected in rows.items():
        value = data.get(name)
        if value is not None and len(value) != expected:
            raise AtomEncodingError(
                f"'{name}' has {len(value)} rows, and {expected} are needed: one for "
                f"each atom, bond or token that it belongs to."
            )


def check_atoms(data: Any) -> None:
    """Raise a ValueError unless this is an ``AtomTokenData``, or a batch of them."""
    if not isinstance(data, AtomTokenData):
        raise AtomEncodingError(
            f"'data' is of type {type(data).__name__}: pass an AtomTokenData, such as "
            f"the readers give."
        )


def check_pos(data: Any, why: str) -> None:
    """Raise a ValueError unless the data has positions ``[N, 3]``."""
    if data.pos is None:
        raise AtomEncodingError(f"'pos' is missing from the data: {why}")
    if data.pos.dim() != 2 or data.pos.size(1) != 3 or not data.pos.is_floating_point():
        raise AtomEncodingError(
            f"'pos' is {data.pos.dtype} of shape {list(data.pos.shape)}: pass floating "
            f"numbers [N, 3] in ångström."
        )
