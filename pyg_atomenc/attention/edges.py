r"""The definition: message passing over the edges inside tokens.

.. math::
    \alpha_{ab} = \frac{\exp(q_a \cdot k_b / \sqrt{d} + \beta_{ab})}
        {\sum_{c} \exp(q_a \cdot k_c / \sqrt{d} + \beta_{ac})}, \qquad
    o_a = \sum_b \alpha_{ab} v_b

over all atoms :math:`b, c` of the token of :math:`a`. Every other backend must equal
what this file computes.
"""

from importlib.util import find_spec
from typing import Any, Optional, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing, global_mean_pool
from torch_geometric.utils import scatter, softmax

from pyg_atomenc.attention.backend import Backend
from pyg_atomenc.attention.inputs import AttentionInputs, Inputs, accumulate_dtype
from pyg_atomenc.attention.layouts import WindowBias, WindowLayout
from pyg_atomenc.checks import check_rows
from pyg_atomenc.errors import require_package

HAS_TORCH_SCATTER = find_spec("torch_scatter") is not None


def _use_torch_scatter() -> bool:
    # Its operators have neither fake kernels nor rules for torch.func's transforms or
    # tangents.
    return (
        HAS_TORCH_SCATTER
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


class EdgeAttention(MessagePassing):
    """Multi-head dot-product attention of target nodes over their incoming edges.

    It has no parameters, and is a base class: PyG replaces ``propagate`` in a class
    when it is first instantiated, and what derives from it afterwards could no longer
    be explained. With torch_scatter installed, softmax and sum are its
    scatters by index; else PyG's own. Both give the same result.

    Shapes:
        ``query`` ``[N_target, H, d]``, ``key`` ``[N_source, H, d]``, ``value``
        ``[N_source, H or 1, D]``, ``bias`` ``[E, H]``; the output is
        ``[N_target, H, D]``, in float32, or float64 for float64 inputs.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("aggr", "add")
        super().__init__(node_dim=0, **kwargs)

    def attend(
        self,
        edge_index: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Optional[Tensor] = None,
        size: Optional[tuple[int, int]] = None,
        dropout: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Attend over edges; gives the outputs and the weights ``[E, H]``."""
        if bias is not None:
            # One row would serve all edges without a word.
            check_rows("bias", bias, edge_index.size(1), "edges")
        if size is None:
            size = (key.size(0), query.size(0))
            size = size if self.flow == "source_to_target" else size[::-1]
        alpha = self.edge_updater(
            edge_index, query=query, key=key, bias=bias, size=size
        )
        # The weights handed out sum to 1; dropout acts on the messages alone.
        dropped = F.dropout(alpha, p=dropout) if dropout > 0 else alpha
        out = self.propagate(edge_index, value=value, alpha=dropped, size=size)
        return out, alpha

    def edge_update(
        self,
        query_i: Tensor,
        key_j: Tensor,
        bias: Optional[Tensor],
        index: Tensor,
        ptr: Optional[Tensor],
        size_i: Optional[int],
    ) -> Tensor:
        """The attention weights ``[E, H]`` of every edge."""
        dtype = accumulate_dtype(query_i.dtype)
        logits = (query_i.to(dtype) * key_j.to(dtype)).sum(-1) / query_i.size(-1) ** 0.5
        if bias is not None:
            logits = logits + bias.to(dtype)
        if _use_torch_scatter():
            torch_scatter = require_package("torch_scatter", "the edges backend")
            if bias is not None:
                # Its maximum misses the lowest number, which biases have for "closed".
                number = torch.finfo(dtype)
                lowest = (logits == number.min).to(dtype)
                logits = logits + lowest * (number.max * number.eps)
            return torch_scatter.scatter_softmax(logits, index, 0, dim_size=size_i)
        return softmax(logits, index, num_nodes=size_i)

    def message(self, value_j: Tensor, alpha: Tensor) -> Tensor:
        """The weighted values ``[E, H, D]``."""
        return alpha.unsqueeze(-1) * value_j.to(alpha.dtype)

    def aggregate(
        self,
        inputs: Tensor,
        index: Tensor,
        ptr: Optional[Tensor] = None,
        dim_size: Optional[int] = None,
    ) -> Tensor:
        """Sum the messages of every target."""
        if _use_torch_scatter() and self.aggr == "add":
            torch_scatter = require_package("torch_scatter", "the edges backend")
            return torch_scatter.scatter(inputs, index, 0, None, dim_size, "sum")
        return super().aggregate(inputs, index, ptr=ptr, dim_size=dim_size)


class _LayoutMessages(EdgeAttention):
    """Attention over the edges of a layout."""


# One for all calls: it holds no state, and is part of no user's model, where an
# explainer would take its edges for the model's.
_MESSAGES = _LayoutMessages()


class EdgesBackend(Backend):
    """PyG message passing over the edge list, pooled by ``global_mean_pool``."""

    name = "edges"
    layouts = ("tokens", "windows", "edges")
    tolerance = {
        torch.float64: 1e-12,
        torch.float32: 1e-5,
        torch.float16: 2e-3,
        torch.bfloat16: 1.6e-2,
    }

    def not_supported_reasons(self, inputs: Inputs) -> list[str]:
        """It runs everywhere, but the number of edges must be known to a trace."""
        if torch.compiler.is_compiling() and inputs.layout.num_pairs is None:
            return [
                "the number of edges depends on the token sizes, which an exported or "
                "compiled graph does not know; use 'dense', or compile with a "
                "TokenLayout"
            ]
        return []

    def attention(self, inputs: AttentionInputs) -> Tensor:
        """See :meth:`Backend.attention`."""
        return self._attend(inputs)[0].to(inputs.value.dtype)

    def attention_pool(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
        """See :meth:`Backend.attention_pool`."""
        layout = inputs.tokens()
        out, alpha, edge_index = self._attend(inputs)
        shape = (layout.num_tokens, *out.shape[1:])
        tokens = global_mean_pool(
            out.flatten(1), layout.atom_to_token, size=layout.num_tokens
        )
        # How much atom b counts in its token: the mean of alpha_ab over the atoms a.
        received = scatter(alpha, edge_index[0], 0, layout.num_atoms, "sum")
        size = layout.sizes.index_select(0, layout.atom_to_token)
        weights = received / size.unsqueeze(-1).to(received.dtype)
        return tokens.view(shape).to(inputs.value.dtype), weights

    def _attend(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor, Tensor]:
        layout, bias = inputs.layout, inputs.bias
        if isinstance(bias, WindowBias):
            bias = bias.to_edges(cast(WindowLayout, layout))
        edges, size = layout.to_edge_index(), (layout.num_sources, layout.num_targets)
        qkv = inputs.query, inputs.key, inputs.value
        return *_MESSAGES.attend(edges, *qkv, bias, size, inputs.dropout), edges
