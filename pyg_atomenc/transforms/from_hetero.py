"""`FromHetero`: from atoms and tokens as two types of nodes back to one graph."""

import torch
from torch import Tensor
from torch_geometric.data import Batch, HeteroData
from torch_geometric.transforms import BaseTransform

from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.transforms.to_hetero import ATOM_EDGES, TOKEN_EDGES


class FromHetero(BaseTransform):
    """Turns what :class:`~pyg_atomenc.transforms.ToHetero` made back into one graph.

    Every attribute of the nodes, edges and the graph that was there, or was added
    since, is kept under the name that ``ToHetero`` would read it from.

    Raises:
        ValueError: If the data is no ``HeteroData``, is a batch, lacks one of the two
            types of nodes or the edges ``('atom', 'in', 'token')``, gives an atom no
            token or several, or has nodes or edges of other types.
    """

    def forward(self, data: HeteroData) -> AtomTokenData:
        """Make the graph; tensors are shared, not copied."""
        _check(data)
        out = AtomTokenData()
        tokens = int(data["token"].num_nodes)
        index = _token_of_atom(data, int(data["atom"].num_nodes), tokens)
        out.num_tokens, out.atom_to_token = tokens, index
        for name, value in data["atom"].items():
            if name != "num_nodes":
                out[name] = value
        for name, value in data["token"].items():
            if name != "num_nodes":
                out[f"token_{name}"] = value
        relations = {
            ("atom", name, "atom"): names for name, names in ATOM_EDGES.items()
        }
        relations["token", "edge", "token"] = TOKEN_EDGES
        for edge_type, names in relations.items():
            if edge_type in data.edge_types:
                _copy_edges(out, data, edge_type, names)
        for name, value in data.to_dict()["_global_store"].items():
            if name in out:
                raise AtomEncodingError(
                    f"'data' has {name!r} for the whole graph, and for nodes or edges, "
                    f"too: rename one of them."
                )
            out[name] = value
        out.validate()
        return out


def _copy_edges(
    out: AtomTokenData,
    data: HeteroData,
    edge_type: tuple[str, str, str],
    names: dict[str, str],
) -> None:
    own = {theirs: ours for ours, theirs in names.items()}
    for name, value in data[edge_type].items():
        if edge_type[1] == "pair" and name == "edge_index":
            # Their order is that of the layout, which the features have to keep.
            if not torch.equal(value, out.token_layout().to_edge_index()):
                raise AtomEncodingError(
                    "('atom', 'pair', 'atom') has other edges than the layout of the "
                    "tokens: leave them in their order, or remove them."
                )
            continue
        out[own.get(name, name)] = value


def _check(data: HeteroData) -> None:
    if not isinstance(data, HeteroData) or isinstance(data, Batch):
        raise AtomEncodingError(
            f"'data' is of type {type(data).__name__}: pass one HeteroData, of a batch "
            f"batch[i]."
        )
    known = {("atom", name, "atom") for name in ATOM_EDGES}
    known |= {("atom", "in", "token"), ("token", "edge", "token")}
    missing = {"atom", "token"} - set(data.node_types)
    if missing or ("atom", "in", "token") not in data.edge_types:
        raise AtomEncodingError(
            f"'data' has the nodes {data.node_types} and edges {data.edge_types}: it "
            f"needs nodes 'atom' and 'token', joined by ('atom', 'in', 'token')."
        )
    more = [
        *(set(data.node_types) - {"atom", "token"}),
        *(set(data.edge_types) - known),
    ]
    if more:
        raise AtomEncodingError(
            f"'data' has {more[0]!r}, which an AtomTokenData has no place for: remove "
            f"it first."
        )


def _token_of_atom(data: HeteroData, num_atoms: int, num_tokens: int) -> Tensor:
    atom, token = data["atom", "in", "token"].edge_index
    order = atom.argsort(stable=True)
    every = torch.arange(num_atoms, device=atom.device)
    if not torch.equal(atom[order], every):
        raise AtomEncodingError(
            f"('atom', 'in', 'token') has {atom.numel()} edges for {num_atoms} atoms: "
            f"it must give every atom exactly one token."
        )
    return token[order]
