"""The definition as a plain NumPy loop over tokens, and partitions to try it on."""

import numpy as np
import torch


def softmax(logits):
    exponent = np.exp(logits - logits.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True)


def token_loop(query, key, value, atom_to_token, num_tokens, bias=None):
    """Loops over tokens and heads; gives atoms, tokens, weights and all alphas.

    ``bias`` is ``{(target atom, source atom): [H]}``; the alphas are ``[N, N, H]``,
    from every target to every source, zeros where these share no token.
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
                logits += [[bias[a, b][head] for b in members] for a in members]
            alpha = softmax(logits)
            atoms[members, head] = alpha @ value[members, head]
            weights[members, head] = alpha.mean(0)
            tokens[token, head] = atoms[members, head].mean(0)
            alphas[np.ix_(members, members, [head])] = alpha[:, :, None]
    return atoms, tokens, weights, alphas


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
