"""What this device does at most, measured in the process that trains on it: the model's own products, and a copy.

A data sheet's figure is reached by no product, and least of all by those of a model whose matrices are 1,024 wide. What
the encoder's own products reach by themselves is the ceiling that a training step can come near.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

SECONDS_PER_PRODUCT = 0.1
WARM_UPS = 3


class Product(NamedTuple):
    """A matrix product (m, k) x (k, n), of which a training step makes `count`."""

    name: str
    m: int
    n: int
    k: int
    count: int = 1
    left_transposed: bool = False
    """The left factor lies in memory as (k, m)."""
    right_transposed: bool = False
    """The right factor lies in memory as (n, k)."""


def encoder_products(hidden: int, intermediate: int, layers: int, n_tokens: int) -> list[Product]:
    """The encoder's products in a training step over T tokens, each as its layer makes it: forward, and backward to
    the layer's input and to its weight."""
    shapes = (
        ("query, key, value", 3 * hidden, hidden),
        ("attention output", hidden, hidden),
        ("feed-forward in", intermediate, hidden),
        ("feed-forward out", hidden, intermediate),
    )
    products = []
    for name, n_out, n_in in shapes:
        products += [
            Product(f"{name}, forward", n_tokens, n_out, n_in, layers, right_transposed=True),
            Product(f"{name}, input gradient", n_tokens, n_in, n_out, layers),
            Product(f"{name}, weight gradient", n_out, n_in, n_tokens, layers, left_transposed=True),
        ]
    return products


def measure_peak(products: Sequence[Product], dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Time each product and a copy.

    Args:
        dtype: of the factors and the result.
        device: whose allocator's peak is forgotten afterwards.

    Returns:
        `products`: name, m, n, k and tflops of each; `matrix_tflops`: of all of them, each as often as a step makes it;
        `copy_bytes_per_second`: read and written.
    """
    timed = [(product, seconds_of_product(product, dtype, device)) for product in products]
    flops = sum(2 * product.m * product.n * product.k * product.count for product, _ in timed)
    seconds = sum(seconds * product.count for product, seconds in timed)
    bytes_per_second = copy_rate(device)
    if device.type == "cuda":  # what comes reports its own memory
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return {
        "matrix_tflops": flops / seconds / 1e12,
        "copy_bytes_per_second": bytes_per_second,
        "products": [
            {
                "name": product.name,
                "m": product.m,
                "n": product.n,
                "k": product.k,
                "tflops": 2 * product.m * product.n * product.k / seconds / 1e12,
            }
            for product, seconds in timed
        ],
    }


def seconds_of_product(product: Product, dtype: torch.dtype, device: torch.device) -> float:
    """Mean time of one such product of random factors."""
    # Random numbers: products of zeros take less power, and so run at higher clocks.
    m, n, k = product.m, product.n, product.k
    left = torch.randn((k, m) if product.left_transposed else (m, k), device=device, dtype=dtype)
    right = torch.randn((n, k) if product.right_transposed else (k, n), device=device, dtype=dtype)
    left, right = left.T if product.left_transposed else left, right.T if product.right_transposed else right
    result = torch.empty(m, n, device=device, dtype=dtype)
    return seconds_of(lambda: torch.mm(left, right, out=result), device)


def copy_rate(device: torch.device) -> float:
    """Bytes per second, read and written, of a copy on this device."""
    n_bytes = 2**30 if device.type == "cuda" else 2**26
    source = torch.empty(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / seconds_of(lambda: target.copy_(source), device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Mean time of one call, over about SECONDS_PER_PRODUCT."""

    def run(times: int) -> float:
        _synchronize(device)
        start = time.perf_counter()
        for _ in range(times):
            work()
        _synchronize(device)
        return time.perf_counter() - start

    run(WARM_UPS)
    once = max(run(WARM_UPS) / WARM_UPS, 1e-7)
    times = max(1, min(1000, round(SECONDS_PER_PRODUCT / once)))
    return run(times) / times


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
