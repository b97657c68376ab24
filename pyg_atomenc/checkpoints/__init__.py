"""Foreign weights → this package's layers."""

from pyg_atomenc.checkpoints.boltz import load_boltz, to_boltz_state_dict

__all__ = ["load_boltz", "to_boltz_state_dict"]
