"""Types of command line arguments that several benchmarks take."""

import argparse

from slimfleet.simulation.partitions import PartitionError, check_scheme


def whole_numbers(text: str) -> tuple[int, ...]:
    """Return ``"0,1,2"`` as numbers.

    Raises:
        argparse.ArgumentTypeError: it is no such list.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 0,1,2") from error


def numbers(text: str) -> tuple[float, ...]:
    """Return ``"0,0.001"`` as numbers.

    Raises:
        argparse.ArgumentTypeError: it is no such list.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 0.5,1") from error


def positive(text: str) -> int:
    """Return a whole number above 0.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """Return ``"lstm,gru"`` as names.

    Raises:
        argparse.ArgumentTypeError: one is empty.
    """
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as lstm,gru")
    return found


def schemes(text: str) -> tuple[str, ...]:
    """Return ``"homogeneous; imbalanced(0.8, 1)"`` as partitions.

    Raises:
        argparse.ArgumentTypeError: one is unknown.
    """
    found = tuple(part.strip() for part in text.split(";"))
    for scheme in found:
        try:
            check_scheme(scheme)
        except PartitionError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return found
