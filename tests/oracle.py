"""The definition as a plain NumPy loop over tokens, and partitions to try it on."""

import numpy as np
import pytest
import torch

from pyg_atomenc.attention import backends

# In float64, which Triton's kernels do not take; they have tests of their own.
BACKENDS = [name for name, b in backends().items() if torch.float64 in b.tolerance]
# The edges meet torch_scatter, and are tested with it and without.
BY_BACKEND = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=[pytest.mark.scatter] if name == "edges" else [])
        for name in BACKENDS
    ],
)


def softmax(logits):
    exponent = np.exp(logits - logits.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True)


def token_loop(query, key, value, atom_to_token, num_tokens, bias=None):
    """Loops over tokens and heads; gives atoms, tokens, weights and all alphas.

    ``bias`` and alphas are ``[N, N, H]``, from every target to every source; where
    these share no token, the alphas are zero.
    """
    query, key, value = (t.detach().double().numpy() for t in (query, key, value))
    index = atom_to_token.numpy()
    num_atoms, heads, channels = query.shape
    value = np.broadcast_to(value, (num_atoms, heads, value.shape[2]))
    tokens = np.zeros((num_tokens, heads, value.shape[2]))
    atoms = np.zeros((num_atoms, heads, value.shape[2]))
    weights = np.zeros((num_atoms, heads))
    alphas = np.zeros((num_atoms, num_atoms, heads))
    for token in range(num_tokens):
        members = [atom for atom in range(num_atoms) if index[atom] == token]
        for head in range(heads):
            if not members:
                continue
            logits = query[members, head] @ key[members, head].T / np.sqrt(channels)
            if bias is not None:
                logits += bias[np.ix_(members, members, [head])][:, :, 0]
            alpha = softmax(logits)
            atoms[members, head] = alpha @ value[members, head]
            weights[members, head] = alpha.mean(0)
            tokens[token, head] = atoms[members, head].mean(0)
            alphas[np.ix_(members, members, [head])] = alpha[:, :, None]
    return atoms, tokens, weights, alphas


def bias_matrix(layout, bias):
    """A bias with one row an edge, as ``[N, N, H]``."""
    if bias is None:
        return None
    source, target = layout.to_edge_index().numpy()
    matrix = np.zeros((layout.num_targets, layout.num_sources, bias.size(1)))
    matrix[target, source] = bias.detach().numpy()
    return matrix


def encode_loop(encoder, x, atom_to_token, num_tokens, bias=None):
    """The encoder in NumPy, from its weights; gives tokens ``[T, H * d]``."""
    h = x.detach().double().numpy()
    h = h - h.mean(-1, keepdims=True)
    h = h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5)

    def project(linear):
        out = h @ linear.weight.detach().double().numpy().T
        if linear.bias is not None:
            out = out + linear.bias.detach().double().numpy()
        return torch.from_numpy(
            out.reshape(len(h), encoder.heads, encoder.out_channels)
        )

    linears = (encoder.lin_query, encoder.lin_key, encoder.lin_value)
    _, tokens, weights, _ = token_loop(
        *map(project, linears), atom_to_token, num_tokens, bias
    )
    return tokens.reshape(num_tokens, encoder.heads * encoder.out_channels), weights


def _sizes(*sizes):
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def partitions():
    """Token assignments by name, each with its number of tokens."""
    generator = torch.Generator().manual_seed(7)

    def shuffle(index):
        return index[torch.randperm(index.numel(), generator=generator)]

    return {
        "sorted": (_sizes(3, 1, 4, 1, 5), 5),
        "shuffled": (shuffle(_sizes(3, 1, 4, 1, 5, 9, 2)), 7),
        "gappy": (shuffle(_sizes(2, 0, 0, 3, 0, 1)), 6),
        "trailing empty": (shuffle(_sizes(2, 3)), 9),
        "single atoms": (torch.arange(6).flip(0), 6),
        "one atom": (torch.zeros(1, dtype=torch.long), 1),
        "one token": (torch.zeros(17, dtype=torch.long), 1),
        "all empty": (torch.zeros(0, dtype=torch.long), 3),
        "nothing": (torch.zeros(0, dtype=torch.long), 0),
        "500 atoms": (shuffle(_sizes(1, 500, 2)), 3),
        "many sizes": (shuffle(_sizes(*range(1, 33), 60, 61, 90)), 35),
    }
