"""Numbers as people read them."""

from __future__ import annotations


def size(count: int) -> str:
    """Bytes with three digits and a decimal unit: 940 B, 1.4 MB."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
