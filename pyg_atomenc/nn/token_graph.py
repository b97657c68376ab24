"""`token_graph`: the graph between tokens that the bonds between atoms imply."""

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.utils import coalesce, cumsum, remove_self_loops, scatter

from pyg_atomenc.attention import accumulate_dtype
from pyg_atomenc.checks import check_rows, check_shape, check_type
from pyg_atomenc.data import AtomTokenData


def token_graph(
    data: AtomTokenData, token_x: Tensor, *, self_loops: bool = False
) -> Data:
    """Make a graph of tokens, so that PyG layers can go on over them.

    Two tokens are joined when any bond joins an atom of one to an atom of the other;
    or by ``token_edge_index`` where the data has it, see
    :class:`~pyg_atomenc.transforms.TokenEdges`.

    Args:
        data (AtomTokenData): A graph of atoms, or a batch of such graphs, with
            ``atom_to_token`` ``[N]``, ``num_tokens`` and, where there are bonds,
            ``edge_index`` ``[2, E]``, or ``token_edge_index`` ``[2, E']`` with or
            without ``token_edge_attr`` ``[E', K]``.
        token_x (Tensor): The features of every token ``[T, D]``, for example from
            :class:`~pyg_atomenc.AtomAttentionEncoder`.
        self_loops (bool): Keep a token's loop to itself where a bond joins two of its
            atoms; without ``token_edge_index`` only. (default: ``False``)

    Returns:
        Data: ``x`` ``[T, D]``, ``edge_index`` ``[2, E']`` int64 (bonds coalesced),
        ``edge_attr`` where the data has ``token_edge_attr``, ``batch`` ``[T]`` int64,
        ``num_nodes``, and ``pos`` ``[T, 3]`` in ångström, the mean position of a
        token's atoms (zeros for an empty token), where ``data`` has positions. A
        :class:`~torch_geometric.data.Batch` with ``ptr`` and ``num_graphs`` of a batch.

    Raises:
        ValueError: If ``data`` is no ``AtomTokenData``, or ``token_x`` has not one row
            per token.
    """
    mend = "pass an AtomTokenData or a batch of them, which knows its tokens."
    num_tokens = check_type("data", data, AtomTokenData, mend).total_num_tokens
    check_shape("token_x", token_x, "num_tokens", "channels")
    mend = "encode with dim_size=data.total_num_tokens, or data.token_layout()."
    check_rows("token_x", token_x, num_tokens, "tokens of 'data'", mend)
    atom_to_token = data.atom_to_token.long()
    graph = Batch() if isinstance(data, Batch) else Data()
    graph.x = token_x
    if "token_edge_index" in data:
        graph.edge_index = data.token_edge_index
        if "token_edge_attr" in data:
            graph.edge_attr = data.token_edge_attr
    elif data.edge_index is None:
        graph.edge_index = atom_to_token.new_empty((2, 0))
    else:
        edge_index = atom_to_token[data.edge_index.long()]
        if not self_loops:
            edge_index, _ = remove_self_loops(edge_index)
        graph.edge_index = coalesce(edge_index, num_nodes=num_tokens)
    if isinstance(data.pos, Tensor):
        pos = data.pos.to(accumulate_dtype(data.pos.dtype))
        mean = scatter(pos, atom_to_token, 0, num_tokens, "mean")
        graph.pos = mean.to(data.pos.dtype)
    graph.batch = data.token_batch
    graph.num_nodes = num_tokens
    if isinstance(data, Batch):
        sizes = torch.as_tensor(data.num_tokens, device=graph.batch.device).flatten()
        graph.ptr = cumsum(sizes)
        graph._num_graphs = data.num_graphs
    return graph
