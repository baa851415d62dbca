"""The pictures of a profile: which kernels take the time, and what bounds each."""

from collections.abc import Iterator
from typing import Any

from benchmark.reports.drawing import MOST_ROWS, Figure, Series

SMALLEST_SHARE = 0.002  # of a roofline's time; smaller kernels would spread its axes over ten more powers of ten


def profile_figures(profile: dict[str, Any]) -> Iterator[Figure]:
    """The figures, not yet drawn."""
    yield from _kernel_shares(profile)
    yield from roofline(profile)


def _kernel_shares(profile: dict[str, Any]) -> Iterator[Figure]:
    kernels = [kernel for kernel in profile.get("kernels") or [] if kernel.get("share")][:MOST_ROWS]
    if not kernels:
        return
    names, shares = [kernel["name"] for kernel in kernels], [kernel["share"] for kernel in kernels]
    finding = f"{names[0]} takes {shares[0]:.1%} of all kernels' time; the longest {len(names)} take {sum(shares):.1%}."
    of = ", ".join(filter(None, [profile.get("source", "a profile"), profile["label"], profile.get("device")]))
    file, title = f"kernels_{profile.get('source')}_{profile['label']}", f"Kernels by time ({of})"
    series = [Series("", [], [share * 100 for share in shares], "bars")]
    yield Figure(file, title, finding, series, "% of kernels' time", rows=names)


def roofline(profile: dict[str, Any]) -> Iterator[Figure]:
    """The rate of each kernel over its arithmetic intensity; nothing where a profile does not count two of them."""
    needed = ("flops", "dram_bytes", "seconds")
    kernels = [kernel for kernel in profile.get("kernels") or [] if all(map(kernel.get, needed))]
    total = sum(kernel["seconds"] for kernel in kernels)
    kernels = [kernel for kernel in kernels if kernel["seconds"] >= SMALLEST_SHARE * total]
    if len(kernels) < 2:
        return
    intensities = [kernel["flops"] / kernel["dram_bytes"] for kernel in kernels]
    rates = [kernel["flops"] / kernel["seconds"] / 1e12 for kernel in kernels]
    areas = [20 + 1500 * kernel["seconds"] / total for kernel in kernels]
    series = [Series("a kernel; area: its time", intensities, rates, "discs", areas=areas)]
    ceilings = profile.get("ceilings") or {}
    peak, bandwidth = ((ceilings.get(f"{name}_per_second") or 0) / 1e12 for name in ("tensor_flops", "dram_bytes"))
    if peak and bandwidth:
        ridge = peak / bandwidth
        left, right = min(*intensities, ridge) / 3, max(*intensities, ridge) * 3
        series.append(Series(f"memory {bandwidth:.2f} TB/s", [left, ridge], [left * bandwidth, peak], "guide"))
        series.append(Series(f"peak {peak:,.0f} TFLOP/s", [ridge, right], [peak, peak], "guide"))
    finding = f"{kernels[rates.index(max(rates))]['name']} is the fastest of {len(kernels)} kernels: "
    finding += f"{max(rates):,.1f} TFLOP/s" + (f", {max(rates) / peak:.1%} of the tensor cores' peak." if peak else ".")
    title = f"Roofline ({', '.join(filter(None, [profile['label'], profile.get('device')]))})"
    x_label = "FLOP per byte of memory traffic"
    yield Figure(f"roofline_{profile['label']}", title, finding, series, x_label, "TFLOP/s", log=True)
