"""Floor 1: the only rooms that know NumPy from CuPy from Numba."""

from .device import Device, array_module, to_host
from .rng import Streams, restore_generator, saved_generator
from .threads import use_threads

__all__ = ["Device", "Streams", "array_module", "restore_generator", "saved_generator", "to_host", "use_threads"]
