"""What the scripts share: arguments that are checked, and errors in one line."""

import argparse
import math

import torch

from pyg_atomenc.errors import MissingPackageError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and stops with the status 1."""

    def error(self, message):
        """In one line, where argparse would print the usage, too."""
        self.exit(1, f"error: {' '.join(str(message).split())}\n")

    def run(self, function):
        """Call it with the arguments."""
        args = self.parse_args()
        try:
            function(args)
        except (ValueError, OSError, MissingPackageError) as error:
            self.error(error)


def count(text):
    """A positive integer, for argparse."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive integer")
    return int(text)


def count_or_0(text):
    """A positive integer or 0, for argparse."""
    return 0 if text == "0" else count(text)


def positive(text):
    """A positive number, for argparse, which tells texts that are none itself."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return float(text)


def share(text):
    """A share that can be taken twice and leaves some."""
    if not 0 < float(text) < 0.5:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 0.5")
    return float(text)


def device(text):
    """One that there is."""
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:
        why = f"{text!r} is no device here: {str(error).splitlines()[0]}"
        raise argparse.ArgumentTypeError(why) from error


def check_finite(what, *values):
    """Raise a ValueError unless all numbers, or tensors, are finite."""
    for value in values:
        if not torch.as_tensor(value).isfinite().all():
            raise ValueError(f"{what} is not finite: nothing is saved")


def scale_of(y):
    """The mean and the standard deviation of labels; 1 where it would be 0."""
    std = y.std(correction=0)
    check_finite("the mean or the spread of the labels", y.mean(), std)
    return y.mean().item(), std.item() or 1.0
