"""What torch's fused attention is called with."""

import torch
from torch.overrides import TorchFunctionMode

SDPA = torch.nn.functional.scaled_dot_product_attention


class FusedCalls(TorchFunctionMode):
    """The queries and masks of all calls inside of the context."""

    def __init__(self):
        super().__init__()
        self.queries, self.masks = [], []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is SDPA:
            self.queries.append(args[0])
            self.masks.append(args[3])
        return function(*args, **(kwargs or {}))
