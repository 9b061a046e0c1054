"""Numbers as people read them: one format a kind of number, for the page and the card alike."""

from __future__ import annotations

import math
from collections.abc import Mapping

from excise.results import Rate

NOT_MEASURED = "–"
"""Stands where a number is missing."""

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SAFE_CONTROLS = "\n\t"
# U+202D and U+202E turn the letters after them around, so that a text reads as what it is not.
# C0 controls have pictures of their own; C1 controls and lone surrogates have none (and the latter cannot be encoded).
_VISIBLE = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in _SAFE_CONTROLS}
_VISIBLE |= {0x7F: "\u2421"} | {code: "\ufffd" for code in (*range(0x80, 0xA0), 0x202D, 0x202E, *range(0xD800, 0xE000))}


def clean(text: str) -> str:
    """Text that can be stored as UTF-8 and shown: control characters made visible, lone surrogates and
    overrides of the writing direction replaced.
    """
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def percent(value: float) -> str:
    """0.0021 as "0.2%"; a trace is never rounded to nothing ("<0.1%"), nor nearly all to all (">99.9%")."""
    if not math.isfinite(value):
        return NOT_MEASURED
    if 0 < value < 0.0005:
        return "<0.1%"
    if 0.9995 <= value < 1:
        return ">99.9%"
    return f"{100 * value:.1f}%"


def interval(rate: Rate) -> str:
    """The 95% Wilson interval, "0.0–1.1%"."""
    return f"{100 * rate.low:.1f}–{100 * rate.high:.1f}%"


def rate(rate: Rate | None) -> str:
    """A rate with its interval, "0.2% (0.0–1.1%)"; a dash where nothing was counted."""
    if rate is None or not rate.total:
        return NOT_MEASURED
    return f"{percent(rate.value)} ({interval(rate)})"


def tally(rate: Rate | None) -> str:
    """The counts behind a rate, "1 of 640"."""
    if rate is None or not rate.total:
        return "not measured"
    return f"{count(rate.count)} of {count(rate.total)}"


def kl(value: float | None) -> str:
    """Nats with two significant digits: "0.0012", "1.4", "3.2 × 10⁻⁷" (spaces that do not break)."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{abs(value):.1e}".split("e")
    power = int(exponent)
    sign = "−" if value < 0 else ""
    if -6 < power < 6:
        return f"{sign}{float(f'{mantissa}e{power}'):.{max(0, 1 - power)}f}"
    return f"{sign}{mantissa}\u00a0×\u00a010{str(power).translate(_SUPERSCRIPT)}"


def count(value: int) -> str:
    """A whole number with separators: "6,738,415,616"."""
    return f"{value:,}"


def size(value: int) -> str:
    """A number of parameters: "6.7 million", "8.0 billion"."""
    for unit, name in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if value >= unit:
            return f"{value / unit:.1f} {name}"
    return count(value)


def signed(value: float) -> str:
    """A strength with two decimals and a real minus sign: "0.98", "−0.12"."""
    return "0.00" if abs(value) < 0.005 else f"{value:.2f}".replace("-", "−")


def plural(number: int, one: str, many: str | None = None) -> str:
    """ "1 prompt", "640 prompts"."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def seconds(value: float) -> str:
    """A clock time: "14 s", "3 min 20 s", "2 h 5 min"."""
    if not math.isfinite(value):
        return NOT_MEASURED
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def setting(value: object) -> str:
    """A setting's value as one would write it in a settings file."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(part) for part in value) or "(empty)"
    return str(value)


def flatten(values: Mapping[str, object], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Nested settings as sorted (dotted key, text) pairs."""
    pairs: list[tuple[str, str]] = []
    for key in sorted(values):
        value = values[key]
        if isinstance(value, Mapping) and value:
            pairs.extend(flatten(value, f"{prefix}{key}."))
        else:
            pairs.append((prefix + key, "(empty)" if isinstance(value, Mapping) else setting(value)))
    return tuple(pairs)
