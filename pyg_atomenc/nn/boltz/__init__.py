"""The atom attention encoder and decoder of Boltz-1 and Boltz-2; see `nn`."""
