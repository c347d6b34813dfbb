"""The fused attention kernel against plain torch: forward and backward, on one thread.

    python benchmarks/bench_attention.py    # half a minute; writes build/bench/attention.json

Runs of both alternate, and medians count. Results are compared before the clock starts; at F = 39
the gradient of h differs by 1e-4, and that is plain torch's distance from float64. Peak is what
torch's product of two 1024 × 1024 matrices reaches in the same session. The forward's share of it
counts the 2·A·K operations of W e per row and pair and nothing else.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from afm.attention import attention_pool, plain_attention_pool
from benchmarks.side_by_side import write

ROWS, SIZE, UNITS = 4096, 16, 16
RUNS = 9


def random_inputs(fields: int) -> list[Tensor]:
    """v, W, b, h and pair_bias, of the sizes that they have in a trained model."""
    g = torch.Generator().manual_seed(0)
    pairs = fields * (fields - 1) // 2
    shapes = ((ROWS, fields, SIZE), (UNITS, SIZE), (UNITS,), (UNITS,), (pairs,))
    scales = (0.5, 1.0, 0.3, 0.5, 0.3)
    return [
        (scale * torch.randn(shape, generator=g)).requires_grad_()
        for shape, scale in zip(shapes, scales, strict=True)
    ]


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(fields: int) -> dict[str, list[float]]:
    """Seconds of every run."""
    inputs = random_inputs(fields)
    grad = torch.ones(ROWS, SIZE)
    square = torch.ones(1024, 1024)

    def step(pool: Callable[..., Tensor]) -> list[Tensor]:
        pooled = pool(*inputs)
        return [pooled, *torch.autograd.grad(pooled, inputs, grad)]

    for fused, plain in zip(step(attention_pool), step(plain_attention_pool), strict=True):
        assert (fused - plain).norm() <= 1e-3 * plain.norm()
    seconds: dict[str, list[float]] = {"fused": [], "plain": [], "fused forward": [], "peak": []}
    for _ in range(RUNS):
        seconds["plain"].append(timed(lambda: step(plain_attention_pool)))
        seconds["fused"].append(timed(lambda: step(attention_pool)))
        seconds["fused forward"].append(timed(lambda: attention_pool(*inputs)))
        seconds["peak"].append(timed(lambda: square @ square))
    return seconds


def share_of_peak(fields: int, seconds: dict[str, list[float]]) -> float:
    """What the forward reaches of the machine's peak."""
    operations = ROWS * fields * (fields - 1) * UNITS * SIZE
    forward, peak = median(seconds["fused forward"]), median(seconds["peak"])
    return operations / forward / (2 * 1024**3 / peak)


def main() -> None:
    torch.set_num_threads(1)
    details = {}
    ratios = {}
    for fields in (39, 10):
        seconds = compare(fields)
        details[f"F={fields}"] = seconds
        middle = {name: median(runs) for name, runs in seconds.items()}
        fused, plain = ROWS / middle["fused"], ROWS / middle["plain"]
        share = share_of_peak(fields, seconds)
        ratios[f"fused / plain, F={fields}"] = fused / plain
        ratios[f"share of peak in forward, F={fields}"] = share
        print(
            f"F={fields}: {fused:,.0f} rows/s, plain torch {plain:,.0f} ({fused / plain:.1f} ×); "
            f"forward at {share:.0%} of the machine's peak"
        )
    print(write("attention", ratios, seconds=details))


if __name__ == "__main__":
    main()
