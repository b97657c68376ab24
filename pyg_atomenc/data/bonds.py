"""`read_bonds`: the bonds of a graph, in whichever form PyG left them."""

from typing import Any, Optional

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import SparseTensor
from torch_geometric.utils import is_sparse, to_edge_index

from pyg_atomenc.checks import check, check_edges, check_has, check_rows


def read_bonds(data: Any) -> tuple[Tensor, Optional[Tensor]]:
    """The bonds of a graph or batch ``[2, E]``, int64, and their features, or None."""
    # They are in `edge_index`, `adj_t` of T.ToSparseTensor, whose rows are targets, or
    # `adj` of T.ToDense, whose values, but for mere weights, stand in for `edge_attr`.
    # A ValueError, if atoms do not fit, or features have no bonds.
    num_atoms, attr = data.num_nodes, data.get("edge_attr")
    if "atom_to_token" in data:
        mend = "a transform changed the atoms; set it for those that are there now."
        check_rows("atom_to_token", data.atom_to_token, num_atoms, "atoms", mend)
    name = next((key for key in ("edge_index", "adj_t", "adj") if key in data), None)
    if name is None:
        for alone in sorted({"edge_attr", "edge_type", "edge_weight"} & {*data.keys()}):
            mend = f"{alone!r} needs the bonds [2, E], or 'adj_t' of T.ToSparseTensor."
            check_has(data, mend, "edge_index")
        tensors = (v for v in data.to_dict().values() if isinstance(v, Tensor))
        return next(tensors, torch.empty(0)).new_empty((2, 0), dtype=torch.long), None
    value, values = data[name], None
    if isinstance(value, EdgeIndex):
        value = value.as_tensor()
    elif name != "edge_index" or is_sparse(value):
        value, values = _places(name, value, num_atoms, data.get("ptr"))
        value = value.flip(0) if name == "adj_t" else value
    edges = check_edges(name, value, num_atoms, "atoms").long()
    attr = values if attr is None else attr
    if isinstance(attr, Tensor):
        check_rows("edge_attr", attr, edges.size(1), "bonds")
    return edges, attr


def _places(
    name: str, adj: Any, num_atoms: int, ptr: Optional[Tensor]
) -> tuple[Tensor, Optional[Tensor]]:
    """The places in a matrix ``[2, E]``, by rows, and the features that stand there."""
    if isinstance(adj, SparseTensor):
        return to_edge_index(adj)[0], adj.storage.value()
    if is_dense := not is_sparse(adj):
        fits = isinstance(adj, Tensor) and adj.dim() > 1 and adj.size(0) == num_atoms
        fits = fits and (ptr is not None or adj.size(1) == num_atoms)
        size = list(adj.shape) if isinstance(adj, Tensor) else type(adj).__name__
        mend = "give it a row and column for each; T.ToDense(num_nodes) pads."
        check(fits, f"'{name}' is {size} for {num_atoms} atoms: {mend}")
        adj = adj.to_sparse(2)
    # The features that stay beside a matrix have the order of its rows.
    adj = adj.to_sparse_csr() if adj.layout == torch.sparse_csc else adj
    places, values = to_edge_index(adj)
    if is_dense and ptr is not None and adj.size(1):
        # The matrices of a batch stand one below the other.
        row, column = places
        places = torch.stack([row % adj.size(1), column]) + ptr[row // adj.size(1)]
    # Where there is nothing to stand there, PyG puts ones.
    return places, values if values.dim() > 1 else None
