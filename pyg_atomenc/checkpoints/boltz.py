"""Boltz's checkpoints → `BoltzAtomEncoder` and `BoltzAtomDecoder`, and back."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import torch
from torch import Tensor

from pyg_atomenc.checkpoints.tensor_file import read_tensors
from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.nn.boltz import BoltzAtomDecoder, BoltzAtomEncoder, BoltzConfig

_TRUNK = "input_embedder."
_SCORE = "structure_module.score_model."
_DIFFUSION = "diffusion_conditioning."


class _Entry(NamedTuple):
    """One tensor of Boltz, and ours that are its rows; under several names there."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]


def load_boltz(
    path_or_state_dict: Union[str, Path, Mapping[str, Any]],
    part: str = "diffusion",
    *,
    queries: int = 32,
    keys: int = 128,
) -> tuple[BoltzAtomEncoder, Optional[BoltzAtomDecoder]]:
    """Boltz's atom attention encoder and decoder, with its weights.

    Args:
        path_or_state_dict (str, Path or dict): A checkpoint of Boltz-1 or Boltz-2
            (of Lightning, or safetensors), its content or its ``state_dict``; or the
            ``state_dict`` of Boltz-1's encoder module alone.
        part (str): ``"diffusion"`` for the encoder and decoder inside the diffusion
            model, ``"trunk"`` for the encoder that embeds the inputs.
            (default: ``"diffusion"``)
        queries (int): Queries of a window, which the weights do not tell.
            (default: ``32``)
        keys (int): Keys of a window. (default: ``128``)

    Returns:
        tuple: The encoder; and the decoder, ``None`` where the part has none.

    Raises:
        ValueError: If the file cannot be read, is of neither version, or lacks weights
            or has some that nothing reads; the message lists them.
    """
    if part not in ("trunk", "diffusion"):
        raise AtomEncodingError(f"'part' is {part!r}: pass 'trunk' or 'diffusion'.")
    tensors = {
        name.replace("_orig_mod.", ""): tensor
        for name, tensor in read_tensors(path_or_state_dict).items()
    }
    if "embed_atom_features.weight" in tensors:
        tensors = _with_prefix(tensors, part)
    config = _infer_config(tensors, part)
    config = replace(config, queries=queries, keys=keys)
    encoder = BoltzAtomEncoder(config)
    found = _rename(tensors, list(_encoder_entries(config)))
    prefix = _SCORE + "atom_attention_decoder."
    has_decoder = part == "diffusion" and any(n.startswith(prefix) for n in tensors)
    decoder = BoltzAtomDecoder(config) if has_decoder else None
    entries = list(_encoder_entries(config))
    if decoder is not None:
        entries += _decoder_entries(config)
    _check_unused(tensors, entries, part)
    _load(encoder, found)
    if decoder is not None:
        _load(decoder, _rename(tensors, list(_decoder_entries(config))))
    return encoder, decoder


def to_boltz_state_dict(
    encoder: BoltzAtomEncoder, decoder: Optional[BoltzAtomDecoder] = None
) -> dict[str, Tensor]:
    """The weights under the names that they have in a checkpoint of Boltz.

    Args:
        encoder (BoltzAtomEncoder): Of either version and form.
        decoder (BoltzAtomDecoder, optional): Its decoder. (default: ``None``)

    Returns:
        dict: Copies of the weights, all keys with the prefixes of the whole model.
    """
    state: dict[str, Tensor] = {}
    pairs: list[tuple[torch.nn.Module, Iterator[_Entry]]] = [
        (encoder, _encoder_entries(encoder.config))
    ]
    if decoder is not None:
        pairs.append((decoder, _decoder_entries(decoder.config)))
    for module, entries in pairs:
        ours = module.state_dict()
        for entry in entries:
            tensor = torch.cat([ours[name] for name in entry.ours])
            state |= {name: tensor.detach().clone() for name in entry.theirs}
    return state


def _encoder_entries(config: BoltzConfig) -> Iterator[_Entry]:
    """Every tensor of the encoder, by its names in a whole checkpoint."""
    if config.version == 1:
        base = _SCORE if config.diffusion else _TRUNK
        module = embedding = base + "atom_attention_encoder."
    elif config.diffusion:
        module = _SCORE + "atom_attention_encoder."
        embedding = _DIFFUSION + "atom_encoder."
    else:
        module = _TRUNK + "atom_attention_encoder."
        embedding = _TRUNK + "atom_encoder."
    names = {
        "embed_atom_features.weight": "features.lin.weight",
        "embed_atompair_ref_pos.weight": "pairs.lin_position.weight",
        "embed_atompair_ref_dist.weight": "pairs.lin_distance.weight",
        "embed_atompair_mask.weight": "pairs.lin_same.weight",
        "c_to_p_trans_q.1.weight": "pairs.lin_query.weight",
        "c_to_p_trans_k.1.weight": "pairs.lin_key.weight",
        "p_mlp.1.weight": "pairs.mlp.0.weight",
        "p_mlp.3.weight": "pairs.mlp.1.weight",
        "p_mlp.5.weight": "pairs.mlp.2.weight",
    }
    if config.feature_bias:
        names["embed_atom_features.bias"] = "features.lin.bias"
    if config.diffusion:
        names |= {
            "s_to_c_trans.0.weight": "norm_trunk.weight",
            "s_to_c_trans.0.bias": "norm_trunk.bias",
            "s_to_c_trans.1.weight": "lin_trunk.weight",
            "z_to_p_trans.0.weight": "pairs.norm_token.weight",
            "z_to_p_trans.0.bias": "pairs.norm_token.bias",
            "z_to_p_trans.1.weight": "pairs.lin_token.weight",
        }
        yield _Entry((module + "r_to_q_trans.weight",), ("lin_noisy.weight",))
    for theirs, ours in names.items():
        yield _Entry((embedding + theirs,), (ours,))
    yield _Entry((module + "atom_to_token_trans.0.weight",), ("lin_token.weight",))
    layers = module + "atom_encoder.diffusion_transformer.layers."
    post_norm = config.post_norm and config.diffusion
    yield from _layer_entries(layers, config.encoder_depth, post_norm)
    if config.version == 1:
        yield from _bias_entries(layers + "{}.pair_bias_attn.proj_z", config, "encoder")
    elif config.diffusion:
        yield from _bias_entries(_DIFFUSION + "atom_enc_proj_z.{}", config, "encoder")
    else:
        yield from _shared_bias_entries(config)


def _decoder_entries(config: BoltzConfig) -> Iterator[_Entry]:
    module = _SCORE + "atom_attention_decoder."
    yield _Entry((module + "a_to_q_trans.weight",), ("lin_token.weight",))
    update = module + "atom_feat_to_atom_pos_update."
    if config.post_norm:
        yield _Entry((update + "weight",), ("lin_out.weight",))
    else:
        yield _Entry((update + "0.weight",), ("norm_out.weight",))
        yield _Entry((update + "0.bias",), ("norm_out.bias",))
        yield _Entry((update + "1.weight",), ("lin_out.weight",))
    layers = module + "atom_decoder.diffusion_transformer.layers."
    yield from _layer_entries(layers, config.decoder_depth, config.post_norm)
    if config.version == 1:
        yield from _bias_entries(layers + "{}.pair_bias_attn.proj_z", config, "decoder")
    else:
        yield from _bias_entries(_DIFFUSION + "atom_dec_proj_z.{}", config, "decoder")


_ADALN = {
    "s_norm.weight": "norm_cond.weight",
    "s_scale.weight": "lin_scale.weight",
    "s_scale.bias": "lin_scale.bias",
    "s_bias.weight": "lin_shift.weight",
}
_LAYER = {
    **{f"adaln.{theirs}": f"norm.{ours}" for theirs, ours in _ADALN.items()},
    "pair_bias_attn.proj_q.weight": "attention.lin_query.weight",
    "pair_bias_attn.proj_q.bias": "attention.lin_query.bias",
    "pair_bias_attn.proj_k.weight": "attention.lin_key.weight",
    "pair_bias_attn.proj_v.weight": "attention.lin_value.weight",
    "pair_bias_attn.proj_g.weight": "attention.lin_gate.weight",
    "pair_bias_attn.proj_o.weight": "attention.lin_out.weight",
    **{
        f"transition.adaln.{theirs}": f"transition.norm.{ours}"
        for theirs, ours in _ADALN.items()
    },
    "transition.a_to_b.weight": "transition.lin_up.weight",
    "transition.b_to_a.weight": "transition.lin_out.weight",
    "transition.output_projection.0.weight": "transition.lin_cond.weight",
    "transition.output_projection.0.bias": "transition.lin_cond.bias",
}


def _layer_entries(prefix: str, depth: int, post_norm: bool) -> Iterator[_Entry]:
    for layer in range(depth):
        theirs, ours = f"{prefix}{layer}.", f"transformer.layers.{layer}."
        for name, own in _LAYER.items():
            yield _Entry((theirs + name,), (ours + own,))
        for kind in ("weight", "bias"):
            # The same parameter is registered twice.
            aliases = ("output_projection_linear.", "output_projection.0.")
            names = tuple(theirs + alias + kind for alias in aliases)
            yield _Entry(names, (f"{ours}lin_cond.{kind}",))
            if post_norm:
                norm = f"{ours}post_norm.{kind}"
                yield _Entry((f"{theirs}post_lnorm.{kind}",), (norm,))
        rows = ("transition.lin_value.weight", "transition.lin_gate.weight")
        yield _Entry(
            (theirs + "transition.swish_gate.0.weight",),
            tuple(ours + row for row in rows),
        )


def _bias_entries(prefix: str, config: BoltzConfig, which: str) -> Iterator[_Entry]:
    for layer in range(getattr(config, f"{which}_depth")):
        theirs, ours = prefix.format(layer), "transformer.pair_bias."
        for kind in ("weight", "bias"):
            yield _Entry((f"{theirs}.0.{kind}",), (f"{ours}norms.{layer}.{kind}",))
        yield _Entry((f"{theirs}.1.weight",), (f"{ours}lins.{layer}.weight",))


def _shared_bias_entries(config: BoltzConfig) -> Iterator[_Entry]:
    theirs, ours = _TRUNK + "atom_enc_proj_z.", "transformer.pair_bias."
    for kind in ("weight", "bias"):
        yield _Entry((f"{theirs}0.{kind}",), (f"{ours}norms.0.{kind}",))
    layers = range(config.encoder_depth)
    lins = tuple(f"{ours}lins.{layer}.weight" for layer in layers)
    yield _Entry((theirs + "1.weight",), lins)


def _infer_config(tensors: Mapping[str, Tensor], part: str) -> BoltzConfig:
    """The sizes and options that the weights tell."""
    base = _SCORE if part == "diffusion" else _TRUNK
    second = (_DIFFUSION if part == "diffusion" else _TRUNK) + "atom_encoder."
    module = base + "atom_attention_encoder."
    if second + "embed_atom_features.weight" in tensors:
        make, embedding = BoltzConfig.boltz2, second
    elif module + "embed_atom_features.weight" in tensors:
        make, embedding = BoltzConfig.boltz1, module
    else:
        raise AtomEncodingError(
            f"'path_or_state_dict' is a checkpoint of neither Boltz-1 nor Boltz-2: it "
            f"has neither '{module}embed_atom_features.weight' nor "
            f"'{second}embed_atom_features.weight', which part={part!r} needs; it has "
            f"{_listed(sorted(tensors))}."
        )

    def shape(name: str) -> torch.Size:
        if name not in tensors:
            raise AtomEncodingError(
                f"'path_or_state_dict' lacks '{name}': it is not a whole checkpoint."
            )
        return tensors[name].shape

    atom_channels, width = shape(embedding + "embed_atom_features.weight")
    config = make(
        part,  # type: ignore[arg-type]
        atom_channels=atom_channels,
        pair_channels=shape(embedding + "embed_atompair_ref_pos.weight")[0],
    )
    config = replace(config, **_feature_options(config, width))
    if part == "diffusion":
        config = replace(
            config,
            token_channels=shape(embedding + "s_to_c_trans.0.weight")[0],
            token_pair_channels=shape(embedding + "z_to_p_trans.0.weight")[0],
            position_channels=shape(module + "r_to_q_trans.weight")[1],
        )
    else:
        token = shape(module + "atom_to_token_trans.0.weight")[0]
        config = replace(config, token_channels=token)
    layers = module + "atom_encoder.diffusion_transformer.layers."
    depth = _depth(tensors, layers)
    if config.version == 1:
        heads = shape(layers + "0.pair_bias_attn.proj_z.1.weight")[0]
    elif part == "diffusion":
        heads = shape(_DIFFUSION + "atom_enc_proj_z.0.1.weight")[0]
    else:
        heads = shape(_TRUNK + "atom_enc_proj_z.1.weight")[0] // max(depth, 1)
    decoder = _SCORE + "atom_attention_decoder.atom_decoder.diffusion_transformer."
    decoder_depth = _depth(tensors, decoder + "layers.")
    return replace(
        config,
        heads=heads,
        encoder_depth=depth,
        decoder_depth=max(decoder_depth, 1),
        post_norm=layers + "0.post_lnorm.weight" in tensors,
    )


def _feature_options(config: BoltzConfig, width: int) -> dict[str, bool]:
    for names, backbone, residue in product((True, False), repeat=3):
        options = {"atom_names": names, "backbone": backbone, "residue": residue}
        if sum(replace(config, **options).features.values()) == width:
            return options
    raise AtomEncodingError(
        f"'path_or_state_dict' embeds {width} atom features, which is none of the "
        f"widths that Boltz-{config.version} can have."
    )


def _depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    layers = {
        int(name[len(prefix) :].split(".")[0])
        for name in tensors
        if name.startswith(prefix) and name[len(prefix) :].split(".")[0].isdigit()
    }
    return max(layers) + 1 if layers else 0


def _with_prefix(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The keys of a whole checkpoint, from those of Boltz-1's encoder alone."""
    if "atom_to_token_trans.0.weight" not in tensors:
        raise AtomEncodingError(
            "'path_or_state_dict' is the state_dict of Boltz-2's AtomEncoder alone, "
            "whose weights are spread over three modules: pass the whole checkpoint."
        )
    found = "diffusion" if "r_to_q_trans.weight" in tensors else "trunk"
    if found != part:
        raise AtomEncodingError(
            f"'part' is {part!r}, but the state_dict is of the {found}'s encoder: pass "
            f"part={found!r}."
        )
    base = _SCORE if part == "diffusion" else _TRUNK
    return {base + "atom_attention_encoder." + n: t for n, t in tensors.items()}


def _rename(tensors: Mapping[str, Tensor], entries: list[_Entry]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    missing = []
    for entry in entries:
        present = [tensors[name] for name in entry.theirs if name in tensors]
        if not present:
            missing.append(entry.theirs[0])
        elif present[0].dim() == 0 or present[0].size(0) % len(entry.ours):
            raise AtomEncodingError(
                f"'path_or_state_dict' has '{entry.theirs[0]}' of shape "
                f"{list(present[0].shape)}, which does not split into "
                f"{len(entry.ours)} parts."
            )
        else:
            rows = present[0].chunk(len(entry.ours))
            found |= dict(zip(entry.ours, rows, strict=True))
    if missing:
        raise AtomEncodingError(
            f"'path_or_state_dict' lacks {_listed(missing)}: it is not a whole "
            f"checkpoint."
        )
    return found


def _check_unused(
    tensors: Mapping[str, Tensor], entries: list[_Entry], part: str
) -> None:
    """Raise a ValueError if a weight of the modules themselves was not read."""
    read = {name for entry in entries for name in entry.theirs}
    if part == "trunk":
        modules = [_TRUNK + n for n in ("atom_attention_encoder.", "atom_enc")]
    else:
        modules = [_SCORE + "atom_attention_", _DIFFUSION + "atom_"]
    unused = [
        name for name in tensors if name.startswith(tuple(modules)) and name not in read
    ]
    if unused:
        raise AtomEncodingError(
            f"'path_or_state_dict' has weights that nothing reads: {_listed(unused)}. "
            f"It is of another version than Boltz-1 and Boltz-2."
        )


def _load(module: torch.nn.Module, state: dict[str, Tensor]) -> None:
    own = module.state_dict()
    wrong = [
        f"{name}: {list(tensor.shape)} for {list(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if wrong:
        raise AtomEncodingError(
            f"'path_or_state_dict' has weights whose sizes do not fit each other: "
            f"{_listed(wrong)}."
        )
    module.load_state_dict(state)


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
