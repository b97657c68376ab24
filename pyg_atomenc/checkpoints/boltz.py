"""Boltz's checkpoints → `BoltzAtomEncoder` and `BoltzAtomDecoder`, and back."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor

from pyg_atomenc.checkpoints.tensor_file import read_tensors
from pyg_atomenc.checks import check, check_choice, listed
from pyg_atomenc.nn import BoltzAtomDecoder, BoltzAtomEncoder, BoltzConfig

_TRUNK = "input_embedder."
_SCORE = "structure_module.score_model."
_DIFFUSION = "diffusion_conditioning."
_Module = Union[BoltzAtomEncoder, BoltzAtomDecoder]

# Our modules → Boltz's, whose weights may have two names there.
_EMBEDDING = {
    "features.lin": "embed_atom_features", "pairs.lin_same": "embed_atompair_mask",
    "pairs.lin_position": "embed_atompair_ref_pos",
    "pairs.lin_distance": "embed_atompair_ref_dist",
    "pairs.lin_query": "c_to_p_trans_q.1", "pairs.lin_key": "c_to_p_trans_k.1",
    "pairs.mlp.0": "p_mlp.1", "pairs.mlp.1": "p_mlp.3", "pairs.mlp.2": "p_mlp.5",
    "norm_trunk": "s_to_c_trans.0", "lin_trunk": "s_to_c_trans.1",
    "pairs.norm_token": "z_to_p_trans.0", "pairs.lin_token": "z_to_p_trans.1",
}  # fmt: skip
_NORM = {"norm_cond": "s_norm", "lin_scale": "s_scale", "lin_shift": "s_bias"}
_LAYER = {
    **{f"norm.{ours}": f"adaln.{theirs}" for ours, theirs in _NORM.items()},
    **{f"attention.lin_{name}": f"pair_bias_attn.proj_{name[0]}"
       for name in ("query", "key", "value", "gate", "out")},
    "lin_cond": "output_projection_linear output_projection.0",
    **{f"transition.norm.{ours}": f"transition.adaln.{theirs}"
       for ours, theirs in _NORM.items()},
    # Two of ours are the rows of one, in this order.
    "transition.lin_value": "transition.swish_gate.0",
    "transition.lin_gate": "transition.swish_gate.0",
    "transition.lin_up": "transition.a_to_b", "transition.lin_out": "transition.b_to_a",
    "transition.lin_cond": "transition.output_projection.0", "post_norm": "post_lnorm",
}  # fmt: skip


def load_boltz(
    path_or_state_dict: Union[str, Path, Mapping[str, Any]], part: str = "diffusion",
    *, queries: int = 32, keys: int = 128,
) -> tuple[BoltzAtomEncoder, Optional[BoltzAtomDecoder]]:  # fmt: skip
    """Boltz's atom attention encoder, and decoder or ``None``, with its weights.

    Args:
        path_or_state_dict (str, Path or dict): A checkpoint of Boltz-1 or Boltz-2, of
            Lightning or safetensors, its content or ``state_dict``, or the
            ``state_dict`` of Boltz-1's encoder module alone.
        part (str): ``"trunk"`` for the encoder that embeds the inputs, or those inside
            the diffusion model. (default: ``"diffusion"``)
        queries (int): Queries of a window, which no weight tells. (default: ``32``)
        keys (int): Keys of a window. (default: ``128``)

    Raises:
        ValueError: If the file cannot be read, is of neither version, or lacks weights
            or has some that nothing reads; the message lists them.
    """
    check_choice("part", part, ("trunk", "diffusion"))
    read = read_tensors(path_or_state_dict).items()
    tensors = {name.replace("_orig_mod.", ""): tensor for name, tensor in read}
    if "embed_atom_features.weight" in tensors:
        tensors = _with_prefix(tensors, part)
    config = replace(_infer_config(tensors, part), queries=queries, keys=keys)
    encoder, decoder = BoltzAtomEncoder(config), None
    names = _load(encoder, tensors)
    own = (_TRUNK + "atom_attention_encoder.", _TRUNK + "atom_enc")
    if config.diffusion:
        own = (_SCORE + "atom_attention_", _DIFFUSION + "atom_")
        place, _, _ = _places(config.version, True, "decoder")
        if any(name.startswith(place) for name in tensors):
            decoder = BoltzAtomDecoder(config)
            names |= _load(decoder, tensors)
    unread = [name for name in tensors if name.startswith(own) and name not in names]
    mend = f"{listed(unread)}. It is of another version than Boltz-1 and Boltz-2."
    _check(not unread, f"has weights that nothing reads: {mend}")
    return encoder, decoder


def to_boltz_state_dict(
    encoder: BoltzAtomEncoder, decoder: Optional[BoltzAtomDecoder] = None
) -> dict[str, Tensor]:
    """Copies of the weights of both, named as in a whole checkpoint of Boltz."""
    state: dict[str, Tensor] = {}
    for module in (encoder,) if decoder is None else (encoder, decoder):
        own = module.state_dict()
        for theirs, ours in _names(module).items():
            state[theirs] = torch.cat([own[name].detach() for name in ours])
    return state


def _places(version: int, diffusion: bool, which: str) -> tuple[str, str, str]:
    """Where a checkpoint has the encoder or the decoder, its layers, the embedding."""
    module = f"{_SCORE if diffusion else _TRUNK}atom_attention_{which}."
    layers = f"{module}atom_{which}.diffusion_transformer.layers."
    # Boltz-2 has what embeds the atoms apart.
    apart = (_DIFFUSION if diffusion else _TRUNK) + "atom_encoder."
    return module, layers, module if version == 1 else apart


def _bias(config: BoltzConfig, which: str, layer: int) -> str:
    """Where a checkpoint has the norm and the projection of a layer's pair bias."""
    if config.version == 1:
        _, layers, _ = _places(1, config.diffusion, which)
        return f"{layers}{layer}.pair_bias_attn.proj_z."
    if config.diffusion:
        return f"{_DIFFUSION}atom_{which[:3]}_proj_z.{layer}."
    # One of all layers, which share the norm; the projections are its rows.
    return f"{_TRUNK}atom_enc_proj_z."


def _names(module: _Module) -> dict[str, list[str]]:
    """The names of all weights in a whole checkpoint → ours, which are their rows."""
    config = module.config
    which = "encoder" if isinstance(module, BoltzAtomEncoder) else "decoder"
    base, layers, embedding = _places(config.version, config.diffusion, which)
    if which == "encoder":
        table = {ours: embedding + theirs for ours, theirs in _EMBEDDING.items()}
        table["lin_noisy"] = base + "r_to_q_trans"
        table["lin_token"] = base + "atom_to_token_trans.0"
    else:
        update = base + "atom_feat_to_atom_pos_update"
        table = {"lin_token": base + "a_to_q_trans", "norm_out": update + ".0"}
        table["lin_out"] = update if config.post_norm else update + ".1"
    for layer in range(len(module.transformer.layers)):
        for ours, theirs in _LAYER.items():
            names = " ".join(f"{layers}{layer}.{name}" for name in theirs.split())
            table[f"transformer.layers.{layer}.{ours}"] = names
        bias = _bias(config, which, layer)
        table[f"transformer.pair_bias.norms.{layer}"] = bias + "0"
        table[f"transformer.pair_bias.lins.{layer}"] = bias + "1"
    found: dict[str, list[str]] = {}
    own = module.state_dict()
    for ours, kind in product(table, ("weight", "bias")):
        if f"{ours}.{kind}" in own:
            for theirs in table[ours].split():
                found.setdefault(f"{theirs}.{kind}", []).append(f"{ours}.{kind}")
    return found


def _infer_config(tensors: Mapping[str, Tensor], part: str) -> BoltzConfig:
    diffusion, features = part == "diffusion", "embed_atom_features.weight"
    known = [_places(number, diffusion, "encoder")[2] + features for number in (1, 2)]
    needs = f"part={part!r} needs {known[0]!r} or {known[1]!r}"
    found = f"is of neither Boltz-1 nor Boltz-2: {needs}, it has"
    _check(tensors.keys() & {*known}, f"{found} {listed(sorted(tensors))}.")

    def size(name: str, dim: int = 0) -> int:
        fits = name in tensors and tensors[name].dim() > dim
        _check(fits, f"lacks {name!r}: it is not a whole checkpoint.")
        return tensors[name].size(dim)

    def depth(layers: str) -> int:
        found = (name for name in tensors if name.startswith(layers))
        return len({name[len(layers) :].split(".")[0] for name in found})

    version = 2 if known[1] in tensors else 1
    module, layers, embedding = _places(version, diffusion, "encoder")
    sizes: dict[str, Any] = {
        "atom_channels": size(embedding + features),
        "pair_channels": size(embedding + "embed_atompair_ref_pos.weight"),
        "encoder_depth": depth(layers),
        "decoder_depth": max(depth(_places(version, True, "decoder")[1]), 1),
        "post_norm": layers + "0.post_lnorm.weight" in tensors,
    }
    if diffusion:
        sizes["token_channels"] = size(embedding + "s_to_c_trans.0.weight")
        sizes["token_pair_channels"] = size(embedding + "z_to_p_trans.0.weight")
        sizes["position_channels"] = size(module + "r_to_q_trans.weight", 1)
    else:
        sizes["token_channels"] = size(module + "atom_to_token_trans.0.weight")
    config = (BoltzConfig.boltz1 if version == 1 else BoltzConfig.boltz2)(part)
    heads = size(_bias(config, "encoder", 0) + "1.weight")
    if config.shared_pair_norm:
        heads //= max(sizes["encoder_depth"], 1)
    width, names = size(embedding + features, 1), ("atom_names", "backbone", "residue")
    choices = product((True, False), repeat=3)
    options = [dict(zip(names, choice, strict=True)) for choice in choices]
    made = [replace(config, **sizes, heads=heads, **option) for option in options]
    configs = [config for config in made if sum(config.features.values()) == width]
    _check(configs, f"embeds {width} atom features, as no Boltz-{version} can.")
    return configs[0]


def _with_prefix(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The keys of a whole checkpoint, from those of Boltz-1's encoder alone."""
    mend = "whose weights are spread over three modules: pass the whole checkpoint."
    found = f"is the state_dict of Boltz-2's AtomEncoder alone, {mend}"
    _check("atom_to_token_trans.0.weight" in tensors, found)
    found = "diffusion" if "r_to_q_trans.weight" in tensors else "trunk"
    mend = f"it is the {found}'s encoder: pass part={found!r}."
    check(found == part, f"'part' is {part!r}, but {mend}")
    prefix, _, _ = _places(1, part == "diffusion", "encoder")
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _load(module: _Module, tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Load all weights of a module, if their sizes fit; gives its names."""
    own, names, wrong = module.state_dict(), _names(module), []
    state: dict[str, Tensor] = {}
    for theirs, ours in names.items():
        tensor, parts = tensors.get(theirs), [own[name] for name in ours]
        shape = torch.cat(parts).shape
        if tensor is not None and tensor.shape != shape:
            wrong.append(f"{theirs}: {list(tensor.shape)} for {list(shape)}")
        elif tensor is not None:
            rows = tensor.split([len(part) for part in parts])
            state = dict(zip(ours, rows, strict=True)) | state
    _check(not wrong, f"has weights whose sizes do not fit: {listed(wrong)}.")
    missing = [theirs for theirs, ours in names.items() if ours[0] not in state]
    _check(not missing, f"lacks {listed(missing)}: it is not a whole checkpoint.")
    module.load_state_dict(state)
    return names


def _check(holds: Any, found: str) -> None:
    check(holds, f"'path_or_state_dict' {found}")
