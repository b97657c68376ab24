"""`ToHetero` and `FromHetero`: atoms and tokens as two types of nodes, and back."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.data.storage import BaseStorage
from torch_geometric.transforms import BaseTransform

from pyg_atomenc.checks import check
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.data.atom_token_data import check_graph, check_single
from pyg_atomenc.data.storage import is_token_attr
from pyg_atomenc.errors import AtomEncodingError

_INSIDE, _BETWEEN = ("atom", "in", "token"), ("token", "edge", "token")
_BOND, _PAIR, _RADIUS = (("atom", n, "atom") for n in ("bond", "pair", "radius"))
# Attribute of the graph → type of edges and their attribute.
_PLACES: dict[str, tuple[Any, str]] = {
    **{name: (_BOND, name) for name in ("edge_index", "edge_attr", "adj_t")},
    "radius_edge_index": (_RADIUS, "edge_index"), "pair_attr": (_PAIR, "edge_attr"),
    "radius_distance": (_RADIUS, "distance"),
    "token_edge_index": (_BETWEEN, "edge_index"),
    "token_edge_attr": (_BETWEEN, "edge_attr"),
}  # fmt: skip
_NAMES = {place: name for name, place in _PLACES.items()}


class ToHetero(BaseTransform):
    """Turns a graph into a ``HeteroData`` with nodes of type ``atom`` and ``token``.

    - ``data['atom']`` has what atoms have, ``['token']`` ``token_*`` without the prefix
    - lists, such as names, are kept whole in the dictionary ``lists`` of their nodes or
      bonds; ``list_id``, int64, says where entries stand, also in a ``NeighborLoader``
    - ``data['atom', 'in', 'token'].edge_index`` ``[2, N]``, int64, is ``atom_to_token``
    - ``data['atom', 'bond', 'atom']`` holds the bonds, ``['atom', 'radius', 'atom']``
      what :class:`RadiusEdges` found, ``['token', 'edge', 'token']`` what
      :class:`TokenEdges` found, and ``['atom', 'pair', 'atom']`` the pairs inside
      tokens and :class:`PairFeatures`; all else stays where it is

    PyG batches the result as any ``HeteroData``; :class:`FromHetero` goes back.

    Raises:
        ValueError: If it is no ``AtomTokenData``, a batch, or lacks ``atom_to_token``.
    """

    def forward(self, data: AtomTokenData) -> HeteroData:
        """Make the heterogeneous graph; tensors are shared, not copied."""
        check_single(data)
        data.validate()
        edges, attr = check_graph(data)
        if "adj" in data:
            data.edge_index, data.edge_attr, data.adj = edges, attr, None
        out, index = HeteroData(), data.atom_to_token
        out["atom"].num_nodes = data.num_nodes
        out["token"].num_nodes = data.total_num_tokens
        atoms = torch.arange(index.numel(), device=index.device)
        out[_INSIDE].edge_index = torch.stack([atoms, index])
        for name, value in data.to_dict().items():
            if name in ("atom_to_token", "num_tokens", "num_nodes"):
                continue
            # Of a graph with one atom or bond, PyG takes a label for theirs.
            label = name == "y" and isinstance(value, Tensor) and len(value) == 1
            kind, own_name = _PLACES.get(name, (None, name))
            if kind is None and is_token_attr(name):
                kind, own_name = "token", name.removeprefix("token_")
            elif kind is None and not label and data.is_node_attr(name):
                kind = "atom"
            elif kind is None and not label and data.is_edge_attr(name):
                kind = _BOND
            if kind is None:
                out[name] = value
            elif isinstance(value, (list, tuple)):
                ids = torch.arange(len(value), device=index.device)
                out[kind].setdefault("lists", {})[own_name] = value
                out[kind].setdefault("list_id", ids)
            else:
                out[kind][own_name] = value
        if "pair_attr" in data:
            out[_PAIR].edge_index = data.token_layout().to_edge_index()
        return out


class FromHetero(BaseTransform):
    """Turns what :class:`ToHetero` made back into one graph.

    Every attribute, also one added since, is kept, named as ``ToHetero`` reads it.

    Raises:
        ValueError: If the data is no ``HeteroData``, is a batch, lacks types or has
            others, gives an atom no or several tokens, or came by ``T.ToSparseTensor``.
    """

    def forward(self, data: HeteroData) -> AtomTokenData:
        """Make the graph; tensors are shared, not copied."""
        check_single(data, HeteroData)
        needed, there = {"atom", "token", _INSIDE}, data.node_types + data.edge_types
        for kind in needed.difference(there):
            mend = f"it needs nodes 'atom' and 'token', joined by {_INSIDE}."
            raise AtomEncodingError(f"'data' has {there}, but not {kind!r}: {mend}")
        for kind in there:
            known = needed.union(kind for kind, _ in _NAMES)
            if kind not in known or (kind != _BOND and "adj_t" in data[kind]):
                mend = "in it: remove it, or apply T.ToSparseTensor after FromHetero."
                raise AtomEncodingError(f"'data' has {kind!r}, or 'adj_t' {mend}")
        out, (atom, token) = AtomTokenData(), data[_INSIDE].edge_index
        out.num_tokens = int(data["token"].num_nodes)
        count, order = data["atom"].num_nodes, atom.argsort(stable=True)
        if not torch.equal(atom[order], torch.arange(count, device=atom.device)):
            mend = f"{count} atoms: it must give every atom exactly one token."
            raise AtomEncodingError(f"{_INSIDE} has {atom.numel()} edges for {mend}")
        out.atom_to_token = token[order]
        for kind in [kind for kind in there if kind != _INSIDE]:
            for name, value in _items(data[kind]):
                if (kind, name) != (_PAIR, "edge_index"):
                    own_name = f"token_{name}" if kind == "token" else name
                    out[_NAMES.get((kind, name), own_name)] = value
                # Their order is that of the layout, which the features have to keep.
                elif not torch.equal(value, out.token_layout().to_edge_index()):
                    mend = "leave them in their order, or remove them."
                    raise AtomEncodingError(f"{_PAIR} has other edges: {mend}")
        for name, value in data._global_store.items():
            mend = "for the whole graph, and for nodes or edges: rename one."
            check(name not in out, f"'data' has {name!r} {mend}")
            out[name] = value
        out.validate()
        return out


def _items(store: BaseStorage) -> Iterator[tuple[str, Any]]:
    for name, value in store.items():
        if name == "lists":
            ids = store.list_id.tolist()
            yield from ((k, [values[i] for i in ids]) for k, values in value.items())
        elif name not in ("num_nodes", "list_id"):
            yield name, value
