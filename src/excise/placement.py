"""Where a model runs and in what form: device, dtype, micro-batch and threads, each with its reason.

The rules look at the machine and the model's size only, never at a measurement: two runs on one machine choose alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from excise.errors import SettingsError

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
_HEADROOM = 1.25
"""Weights need this much more than their size: activations, and what loading holds for a moment."""


def choose_device(asked: str) -> tuple[torch.device, str]:
    """(device, reason) for "auto" or a torch device name.

    Raises:
        SettingsError: not a device, or not there.
    """
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device()), "a CUDA device is there"
        if torch.backends.mps.is_available():
            return torch.device("mps"), "no CUDA device, but Apple's MPS is there"
        return torch.device("cpu"), "no CUDA device and no MPS is there"
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises AssertionError for a build without CUDA
        raise SettingsError(f"device {asked!r}: not usable here ({error}). Use auto, cpu, cuda or mps.") from error
    return device, "asked for"


def choose_dtype(asked: str, stored: torch.dtype, parameters: int, device: torch.device) -> tuple[torch.dtype, str]:
    """(dtype, reason) for "auto" or a dtype name; `stored` is that of most weights in the checkpoint.

    Raises:
        SettingsError: unknown dtype.
    """
    if asked != "auto":
        if asked not in _DTYPES:
            raise SettingsError(f"dtype: expected auto, {', '.join(_DTYPES)}, found {asked!r}.")
        return _DTYPES[asked], "asked for"
    if device.type == "cpu":
        if stored == torch.float32:
            return stored, "stored so"
        free = free_memory(device)
        if parameters * 4 * _HEADROOM <= free:
            return torch.float32, "half precision is slow on CPU, and float32 fits the memory"
        return _half(stored), f"float32 needs {parameters * 4 / 2**30:.1f} GiB of {free / 2**30:.1f} GiB free"
    if stored == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        return torch.float16, "stored as bfloat16, which this GPU does not do"
    if stored in (torch.float32, torch.float16, torch.bfloat16):
        return stored, "stored so"
    return _half(stored), "stored in a narrow format that does not calculate"


def _half(stored: torch.dtype) -> torch.dtype:
    return stored if stored in (torch.float16, torch.bfloat16) else torch.bfloat16


@dataclass(frozen=True)
class Lanes:
    """How work is cut up."""

    micro_batch: int
    at_once: int
    threads: int


def choose_lanes(parameters: int, device: torch.device, micro_batch: int | None) -> Lanes:
    """Micro-batch from the model's size and the kind of device; threads and lanes from the number of cores.

    Raises:
        SettingsError: micro_batch < 1.
    """
    if micro_batch is not None and micro_batch < 1:
        raise SettingsError(f"micro_batch: expected at least 1, found {micro_batch}.")
    billions = parameters / 1e9
    if device.type == "cpu":
        count = cores()
        threads = max(1, count // 8)
        rows = 32 if billions <= 0.3 else 16 if billions <= 3 else 8
        return Lanes(micro_batch or rows, max(1, min(8, count // threads)), threads)
    rows = 64 if billions <= 15 else 32 if billions <= 80 else 16
    return Lanes(micro_batch or rows, 1, torch.get_num_threads())


def cores() -> int:
    """CPU cores that this process may use (affinity and cgroup quota)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, _, period = quota.read_text().partition(" ")
        if limit.strip().isdigit():
            count = min(count, max(1, int(limit) // int(period)))
    return count


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return min(_system_free(), _cgroup_free())


def _system_free() -> int:
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 * 2**30


def _cgroup_free() -> int:
    files = ("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
    for limit, used in files:
        ceiling, current = Path("/sys/fs/cgroup", limit), Path("/sys/fs/cgroup", used)
        if ceiling.is_file() and current.is_file():
            text = ceiling.read_text().strip()
            if text.isdigit():
                return max(0, int(text) - int(current.read_text()))
    return 1 << 62


class Peak:
    """Filled in by `peak_memory`."""

    bytes: int | None = None
    """Most memory held at once beyond what was held at the start; None: this system does not tell."""


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """How much host memory the body takes at most, from Linux's high-water mark (reset through clear_refs)."""
    peak, before = Peak(), None
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except OSError:  # not Linux, or not allowed: then nothing is known
        before = None
    yield peak
    if before is not None and (high := _status("VmHWM")) is not None:
        peak.bytes = max(0, high - before)


def _status(name: str) -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None
