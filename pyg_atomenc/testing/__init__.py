"""What ships for the tests of users' own layers."""

from pyg_atomenc.testing.check_layer import LayerCheck, check_layer, layer_checks

__all__ = ["LayerCheck", "check_layer", "layer_checks"]
