"""The library of the kernels that train on CPUs."""

from ctypes import CDLL, c_double, c_float, c_int64, c_void_p
from functools import cache

from afm.kernels.compiled import load


@cache
def library() -> CDLL | None:
    """Loads the kernels, and compiles them where that has not been done: some seconds, once.

    Returns:
        The kernels; None where they cannot be compiled, which is logged once.
    """
    kernel = load(
        *("vectors.h", "threads.h", "rows.cpp", "attention.cpp", "step.cpp"),
        otherwise="training goes without its fused kernels, many times slower",
    )
    if kernel is not None:
        number, array, real = (c_int64,), (c_void_p,), (c_float,)
        sizes = 5 * number  # B, F, K, A, threads
        kernel.attention_pool_forward.argtypes = sizes + 9 * array
        kernel.attention_pool_backward.argtypes = sizes + 13 * array
        kernel.afm_step.restype = c_double
        kernel.afm_step.argtypes = sizes + 8 * array
        look_ups = 3 * number + array + 2 * (array + number) + 2 * number  # and share
        kernel.sum_rows.restype = c_int64
        kernel.sum_rows.argtypes = look_ups + 2 * array
        kernel.lazy_adam.argtypes = look_ups + 3 * array + 5 * real
        kernel.adam_of_all.argtypes = look_ups + array
        kernel.adam.argtypes = number + 4 * array + 4 * real
    return kernel
