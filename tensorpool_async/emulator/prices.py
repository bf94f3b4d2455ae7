"""The instance types, and what a node of each costs."""

from collections.abc import Mapping
from types import MappingProxyType


_PER_GPU = {"B300": 5.99, "B200": 4.99, "H200": 3.49, "H100": 2.49}

PRICES: Mapping[str, float] = MappingProxyType(
    {f"{count}x{gpu}": round(count * price, 2) for gpu, price in _PER_GPU.items() for count in (1, 2, 4, 8)}
    | {"1xL40S": 1.29, "32xCPU": 1.28, "64xCPU": 2.56}
)
"""US dollars per hour and node, by instance type."""

STORAGE_PER_GB_MONTH = 0.10
HOURS_PER_MONTH = 730


def storage_rate(size_gb: int) -> float:
    """US dollars per hour for a volume of this size."""
    return size_gb * STORAGE_PER_GB_MONTH / HOURS_PER_MONTH


def is_cpu(instance_type: str) -> bool:
    return instance_type.endswith("xCPU")


def can_be_multi_node(instance_type: str) -> bool:
    """Only whole machines are joined into one cluster."""
    return instance_type.startswith("8x")
