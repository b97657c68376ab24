"""`token_graph`: the graph between tokens that the bonds between atoms imply."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.utils import coalesce, cumsum, remove_self_loops, scatter

from pyg_atomenc.attention import accumulate_dtype
from pyg_atomenc.checks import check_choice, check_rows, check_shape, check_type
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.data.bonds import read_bonds
from pyg_atomenc.data.editing import check_flat
from pyg_atomenc.data.storage import has_pair_rows, is_token_attr

# What is of atoms, bonds or pairs whatever its length, or is made anew.
_LEFT = """atom_to_token num_tokens token_batch num_nodes batch ptr x pos z edge_index
edge_attr edge_stereo adj adj_t formal_charge num_hydrogens chirality isotope hetero
num_radical_electrons atom_name res_name res_id chain_id ins_code is_representative
is_resolved token_edge_index token_edge_attr""".split()


def token_graph(
    data: AtomTokenData,
    token_x: Tensor,
    *,
    self_loops: bool = False,
    edge_reduce: str = "mean",
) -> Data:
    """Make a graph of tokens, so that PyG layers can go on over them.

    Two tokens are joined when any bond joins an atom of one to an atom of the other;
    or by ``token_edge_index`` where the data has it, see
    :class:`~pyg_atomenc.transforms.TokenEdges`. What belongs to the tokens or to whole
    graphs goes along under its name: ``token_y``, ``token_name``, ``y``, ``smiles``.

    Args:
        data (AtomTokenData): A graph of atoms, or a batch of such graphs, with its
            bonds ``[2, E]`` in ``edge_index``, or in what PyG's transforms replace it
            by, ``adj_t`` or ``adj``; or with ``token_edge_index`` ``[2, E']``, and
            ``token_edge_attr`` ``[E', K]`` or without.
        token_x (Tensor): The features of every token ``[T, D]``, for example from
            :class:`~pyg_atomenc.AtomAttentionEncoder`.
        self_loops (bool): Keep a token's loop to itself where a bond joins two of its
            atoms; without ``token_edge_index`` only. (default: ``False``)
        edge_reduce (str): How ``edge_attr`` ``[E, ...]`` of the bonds that join two
            tokens becomes one: ``"mean"``, always floating, ``"sum"``, of booleans
            their count, ``"max"`` or ``"min"``. (default: ``"mean"``)

    Returns:
        Data: ``x`` ``[T, D]``, ``edge_index`` ``[2, E']`` int64 (bonds coalesced),
        ``edge_attr`` ``[E', ...]`` where bonds, or ``token_edge_index``, have features,
        ``batch`` ``[T]`` int64, ``num_nodes``, and ``pos`` ``[T, 3]`` in ångström, the
        mean of the known positions of a token's atoms, NaN where none is known, where
        atoms have some; and what goes along. Of a batch, a
        :class:`~torch_geometric.data.Batch`, as of the token graphs of its graphs.

    Raises:
        ValueError: If ``data`` is no ``AtomTokenData``, its bonds do not fit its atoms,
            ``edge_reduce`` is none of those, or ``token_x`` has not one row per token.
    """
    mend = "pass an AtomTokenData or a batch of them, which knows its tokens."
    num_tokens = check_type("data", data, AtomTokenData, mend).total_num_tokens
    check_flat(data)
    check_shape("token_x", token_x, "num_tokens", "channels")
    mend = "encode with dim_size=data.total_num_tokens, or data.token_layout()."
    check_rows("token_x", token_x, num_tokens, "tokens of 'data'", mend)
    check_choice("edge_reduce", edge_reduce, ("mean", "sum", "max", "min"))
    index = data.atom_to_token.long()
    graph = (Batch if isinstance(data, Batch) else Data)(x=token_x)
    if "token_edge_index" in data:
        graph.edge_index, attr = data.token_edge_index, data.get("token_edge_attr")
    else:
        bonds, attr = read_bonds(data)
        edges = index[bonds]
        if attr is not None:
            inside, dtype = _reduced_types(attr, edge_reduce)
            attr = attr.to(inside)
        if not self_loops:
            edges, attr = remove_self_loops(edges, attr)
        graph.edge_index, attr = coalesce(edges, attr, num_tokens, edge_reduce)
        attr = None if attr is None else attr.to(dtype)
    graph.edge_attr = attr
    if isinstance(data.pos, Tensor):
        graph.pos = _known_mean(data.pos, index, num_tokens)
    graph.batch, graph.num_nodes = data.token_batch, num_tokens
    slices = _carry(data, graph)
    if isinstance(data, Batch):
        _make_separable(data, graph, slices)
    return graph


def _reduced_types(attr: Tensor, reduce: str) -> tuple[torch.dtype, torch.dtype]:
    """The type to reduce features in, and that of the result, as torch's own sums."""
    if attr.dtype.is_floating_point:
        return accumulate_dtype(attr.dtype), attr.dtype
    if reduce == "mean":
        return (torch.get_default_dtype(),) * 2
    return torch.long, torch.long if reduce == "sum" else attr.dtype


def _known_mean(pos: Tensor, index: Tensor, num_tokens: int) -> Tensor:
    """The mean of the known positions of every token's atoms, or NaN."""
    known = pos.isfinite().all(dim=1, keepdim=True)
    # Zeros stand in for unknown positions: a NaN would reach the others' gradients.
    inside = torch.where(known, pos, 0.0).to(accumulate_dtype(pos.dtype))
    total = scatter(inside, index, 0, num_tokens, "sum")
    count = scatter(known.to(total.dtype), index, 0, num_tokens, "sum")
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan).to(pos.dtype)


def _carry(data: AtomTokenData, graph: Data) -> dict[str, Any]:
    """Hand on what is of tokens or whole graphs; gives where each graph's part lies."""
    known: dict[str, Any] = getattr(data, "_slice_dict", {})
    tokens = torch.as_tensor(data.num_tokens).flatten().cpu()
    counted = {"atom_to_token", "edge_index"} & set(known)
    others = [known[key].diff().tolist() for key in counted]
    others += [[data.num_nodes], [data.num_edges]]
    slices: dict[str, Any] = dict.fromkeys(("x", "pos", "batch"), cumsum(tokens))
    for key, value in data.to_dict().items():
        late = isinstance(data, Batch) and key not in known
        # What a loader's `follow_batch` adds was in no graph.
        followed = late and key.endswith(("_batch", "_ptr"))
        if followed or key in _LEFT or has_pair_rows(key):
            continue
        of_tokens = is_token_attr(key)
        wanted = tokens.tolist() if of_tokens else [1] * len(tokens)
        rows = _rows(data, key, value, wanted)
        # Of graphs with one atom or bond each, the name alone tells.
        if rows == wanted or not (of_tokens or late or rows in others):
            graph[key] = value
            slices[key] = known[key] if key in known else cumsum(torch.tensor(rows))
    return slices


def _rows(data: AtomTokenData, key: str, value: Any, wanted: list[int]) -> list[int]:
    """How many rows every graph has in a value."""
    slices, size = getattr(data, "_slice_dict", {}).get(key), sum(wanted)
    lists = isinstance(value, (list, tuple))
    if isinstance(data, Batch) and lists:
        # PyG batches names as a list for each graph.
        return [len(v) if isinstance(v, (list, tuple)) else 1 for v in value]
    if isinstance(slices, Tensor) and slices.dim() == 1:
        return slices.diff().tolist()
    if isinstance(value, Tensor) and value.dim() > 0:
        size = value.size(-1 if data.__cat_dim__(key, value) == -1 else 0)
    size = len(value) if lists else size
    return wanted if size == sum(wanted) else [size]


def _make_separable(data: AtomTokenData, graph: Data, slices: dict[str, Any]) -> None:
    """Say where each graph lies in the batch, as ``Batch.from_data_list`` does."""
    ptr, sizes = slices["batch"], slices["batch"].diff()
    # Each graph's edges stand together, in the order of the graphs.
    owner, order = graph.batch[graph.edge_index[0]].sort(stable=True)
    for key in {"edge_index", "edge_attr"} & set(graph.keys()):
        graph[key] = graph[key].index_select(graph.__cat_dim__(key, None), order)
        slices[key] = cumsum(owner.bincount(minlength=len(sizes)))
    graph.ptr, graph._num_graphs = ptr.to(graph.batch.device), data.num_graphs
    graph._store._num_nodes = sizes.tolist()
    graph._slice_dict = {key: rows for key, rows in slices.items() if key in graph}
    shifts = dict(edge_index=ptr[:-1], batch=torch.arange(len(sizes)))
    shifts |= dict.fromkeys(("x", "pos", "edge_attr"))
    known = {**getattr(data, "_inc_dict", {}), **shifts}
    graph._inc_dict = {key: known.get(key) for key in graph._slice_dict}
