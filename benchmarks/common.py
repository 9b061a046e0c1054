"""What every benchmark needs: the machine and versions it ran on, Markdown tables, and results put into docs/."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""
DOCS = ROOT / "docs" / "benchmarks.md"
PACKAGES = ("excise", "torch", "transformers", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True)
class Machine:
    """Where and when a benchmark ran."""

    date: str
    """UTC, to the minute."""
    processor: str
    cores: int
    """That this process may use."""
    memory_gb: float
    system: str
    python: str
    versions: dict[str, str]
    load: float
    """Load average of the last minute when the benchmark began; a quiet machine is well below `cores`."""

    def line(self) -> str:
        """For people."""
        packages = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.date} UTC; {self.cores} cores of {self.processor}, {self.memory_gb:.0f} GB, {self.system}; "
            f"Python {self.python}, {packages}; load average at the start {self.load:.1f}."
        )


def machine() -> Machine:
    """This machine, now."""
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: metadata.version(name) for name in PACKAGES},
        load=os.getloadavg()[0],
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or "unknown processor"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; all columns but the first to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def outcome(met: bool) -> str:
    """The word for a target."""
    return "met" if met else "**missed**"


def write_docs(name: str, text: str, page: Path = DOCS) -> None:
    """Put `text` between `<!-- NAME:begin -->` and `<!-- NAME:end -->` of the page; exits where they are not there."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = page.read_text("utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{page}: expected the markers {begin} and {end}, found none. Put them where results belong.")
    page.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", "utf-8")
