"""`ToHetero`: atoms and tokens as two types of nodes."""

from typing import Any

import torch
from torch_geometric.data import Batch, HeteroData
from torch_geometric.transforms import BaseTransform

from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.data.atom_token_data import is_token_attr
from pyg_atomenc.errors import AtomEncodingError

ATOM_EDGES = {
    "bond": {"edge_index": "edge_index", "edge_attr": "edge_attr"},
    "radius": {"radius_edge_index": "edge_index", "radius_distance": "distance"},
    "pair": {"pair_attr": "edge_attr"},
}
"""Edges between atoms: relation → attribute of the graph → attribute of the edges."""

TOKEN_EDGES = {"token_edge_index": "edge_index", "token_edge_attr": "edge_attr"}
"""The same between tokens, whose relation is ``"edge"``."""


class ToHetero(BaseTransform):
    """Turns a graph into a ``HeteroData`` with nodes of type ``atom`` and ``token``.

    - ``data['atom']`` holds what every atom has, ``data['token']`` what is named
      ``token_*`` in the graph, without that prefix
    - ``data['atom', 'in', 'token'].edge_index`` ``[2, N]``, int64, is ``atom_to_token``
    - ``data['atom', 'bond', 'atom']`` holds the bonds; where the graph has them,
      ``['atom', 'radius', 'atom']`` what
      :class:`~pyg_atomenc.transforms.RadiusEdges` found, ``['atom', 'pair', 'atom']``
      the pairs inside tokens with the features of
      :class:`~pyg_atomenc.transforms.PairBias`, and ``['token', 'edge', 'token']`` what
      :class:`~pyg_atomenc.transforms.TokenEdges` found
    - everything else belongs to the whole graph and stays where it is

    PyG batches the result as any ``HeteroData``.
    :class:`~pyg_atomenc.transforms.FromHetero` goes back.

    Raises:
        ValueError: If the data is no ``AtomTokenData``, is a batch, or has no
            ``atom_to_token``.

    Example:
        >>> from pyg_atomenc.io import from_smiles
        >>> data = ToHetero()(from_smiles("CC(=O)Oc1ccccc1"))
        >>> data.node_types
        ['atom', 'token']
        >>> data["atom", "in", "token"].edge_index[1].tolist()
        [0, 0, 0, 1, 2, 2, 2, 2, 2, 2]
    """

    def forward(self, data: AtomTokenData) -> HeteroData:
        """Make the heterogeneous graph; tensors are shared, not copied."""
        if not isinstance(data, AtomTokenData) or isinstance(data, Batch):
            raise AtomEncodingError(
                f"'data' is of type {type(data).__name__}: pass one AtomTokenData; "
                f"graphs are converted first, and batched then."
            )
        data.validate()
        out = HeteroData()
        out["atom"].num_nodes = data.num_nodes
        out["token"].num_nodes = data.total_num_tokens
        atoms = torch.arange(
            data.atom_to_token.numel(), device=data.atom_to_token.device
        )
        out["atom", "in", "token"].edge_index = torch.stack([atoms, data.atom_to_token])
        for name, value in data.to_dict().items():
            _place(out, data, name, value)
        if "pair_attr" in data:
            pairs = data.token_layout().to_edge_index()
            out["atom", "pair", "atom"].edge_index = pairs
        return out


def _place(out: HeteroData, data: AtomTokenData, name: str, value: Any) -> None:
    if name in ("atom_to_token", "num_tokens", "num_nodes"):
        return
    for relation, names in ATOM_EDGES.items():
        if name in names:
            out["atom", relation, "atom"][names[name]] = value
            return
    if name in TOKEN_EDGES:
        out["token", "edge", "token"][TOKEN_EDGES[name]] = value
    elif is_token_attr(name):
        out["token"][name.removeprefix("token_")] = value
    elif name == "y" and isinstance(value, torch.Tensor) and len(value) == 1:
        # Of a graph with one atom or bond, PyG takes a label for theirs.
        out[name] = value
    elif data.is_node_attr(name):
        out["atom"][name] = value
    elif data.is_edge_attr(name):
        out["atom", "bond", "atom"][name] = value
    else:
        out[name] = value
