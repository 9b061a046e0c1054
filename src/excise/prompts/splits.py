"""Prompts of two sides, cleaned and dealt into extract, select, confirm and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256

from excise.errors import PromptError, SettingsError
from excise.prompts.duplicates import Index, Words, words
from excise.prompts.records import nearest
from excise.results import SPLITS, Prompt, PromptSet, Split

MINIMUM = 32
"""Prompts that a side needs after cleaning, if nothing else is said."""
_PERCENT: dict[Split, int] = {"extract": 40, "select": 15, "confirm": 15, "test": 30}
_CAP: dict[Split, int] = {"extract": 400, "select": 96, "confirm": 128, "test": 1000}
_OVERLAP = 0.1
"""Share of a side that may stand on the other side too (and is then dropped from both)."""

Cleaned = list[tuple[Prompt, Words]]
Dealt = dict[str, tuple[Prompt, ...]]


def split(
    target: Sequence[Prompt],
    neutral: Sequence[Prompt],
    *,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    minimum: int = MINIMUM,
) -> PromptSet:
    """Both sides without empty and (nearly) repeated prompts, in disjoint splits that do not depend on their order.

    By default 40% of a side, at most 400, go to extract, 15% to select (96) and confirm (128) each and the rest to
    test (1000). `sizes` sets some or all of these, for each side; the others share what is left. Which prompts are
    kept does not depend on `seed`, which split each goes to does. Topics are spread evenly over the splits.
    """
    wanted = _checked(sizes or {})
    dropped: dict[str, Counter[str]] = {"target": Counter(), "neutral": Counter()}
    cleaned = {
        "target": _clean(target, dropped["target"]),
        "neutral": _clean(neutral, dropped["neutral"]),
    }
    _part(cleaned, dropped)
    dealt: dict[str, Dealt] = {}
    for side, kept in cleaned.items():
        found = len(target) if side == "target" else len(neutral)
        needed = max(minimum, len(SPLITS))
        if len(kept) < needed:
            raise _too_few(side, found, dropped[side], len(kept), needed)
        counts = _counts(side, len(kept), wanted)
        dealt[side] = _deal([prompt for prompt, _ in kept], counts, seed)
        dropped[side]["left over"] = len(kept) - sum(counts.values())
    reasons = dropped["target"] + dropped["neutral"]
    return PromptSet(
        target=dealt["target"],
        neutral=dealt["neutral"],
        dropped={reason: reasons[reason] for reason in sorted(reasons)},
        keep=(),
        fingerprint=_fingerprint(dealt),
    )


def _checked(sizes: Mapping[str, int]) -> dict[Split, int]:
    for name, size in sizes.items():
        if name not in SPLITS:
            raise SettingsError(
                f"sizes: expected {', '.join(SPLITS)}, found {name!r}.{nearest(name, SPLITS)} Use one of these names."
            )
        if size < 1:
            raise SettingsError(f"sizes: expected at least 1 prompt for {name}, found {size}. Every split needs some.")
    return {name: sizes[name] for name in SPLITS if name in sizes}


def _clean(prompts: Sequence[Prompt], dropped: Counter[str]) -> Cleaned:
    """One prompt of every group that says the same, in an order of their own (not the file's)."""
    kept: Cleaned = []
    seen: set[tuple[str | None, str]] = set()
    entries = {prompt: words(prompt) for prompt in prompts}
    index = Index(entries.values())
    for prompt in sorted(prompts, key=_order):
        same = (prompt.system, prompt.text.strip())
        entry = entries[prompt]
        if not prompt.text.strip():
            dropped["empty"] += 1
        elif same in seen:
            dropped["duplicate"] += 1
        elif index.contains(entry):
            dropped["near-duplicate"] += 1
            seen.add(same)
        else:
            kept.append((prompt, entry))
            seen.add(same)
            index.add(entry)
    return kept


def _part(cleaned: dict[str, Cleaned], dropped: dict[str, Counter[str]]) -> None:
    """Take out, on both sides, what the other side says too."""
    index = {side: Index(entry for both in cleaned.values() for _, entry in both) for side in cleaned}
    for side, kept in cleaned.items():
        for _, entry in kept:
            index[side].add(entry)
    apart: dict[str, Cleaned] = {}
    for side, other in (("target", "neutral"), ("neutral", "target")):
        kept = cleaned[side]
        apart[side] = [pair for pair in kept if not index[other].contains(pair[1])]
        dropped[side]["on both sides"] = common = len(kept) - len(apart[side])
        if common > _OVERLAP * len(kept):
            example = next(prompt.text for prompt, entry in kept if index[other].contains(entry))
            raise PromptError(
                f"target and neutral prompts do not differ: expected at most {_OVERLAP:.0%} in common, found {common}"
                f" of {len(kept)} {side} prompts on the other side too, such as {example[:80]!r}. Check that the two"
                " sources are not the same in part; neutral prompts are ones that do not draw the behaviour."
            )
    cleaned.update(apart)


def _counts(side: str, found: int, wanted: dict[Split, int]) -> dict[Split, int]:
    """Prompts a split: `wanted` where it says, else the default share of the rest, at least one."""
    free = [name for name in SPLITS if name not in wanted]
    rest = found - sum(wanted.values())
    if rest < len(free):
        raise PromptError(
            f"{side} prompts: expected at least {sum(wanted.values()) + len(free)} for the sizes asked for, found"
            f" {found} that differ. Add prompts or ask for smaller splits."
        )
    total = sum(_PERCENT[name] for name in free)
    counts = dict(wanted)
    left = rest
    for position, name in enumerate(free):
        after = len(free) - position - 1
        share = left if after == 0 else max(1, round(rest * _PERCENT[name] / total))
        counts[name] = min(share, _CAP[name], left - after)
        left -= counts[name]
    return {name: counts[name] for name in SPLITS}


def _deal(prompts: list[Prompt], counts: dict[Split, int], seed: int) -> Dealt:
    """Consecutive pieces of an order in which every topic is spread evenly: the i-th of n prompts of a topic stands at
    (i + a fraction of the topic's own) / n."""
    order = sorted(prompts, key=lambda prompt: _order(prompt, str(seed)))
    totals = Counter(prompt.topic for prompt in order)
    if len(totals) > 1:
        before: Counter[str | None] = Counter()
        places = {}
        for prompt in order:
            start = int.from_bytes(sha256(f"{seed}\0{prompt.topic}".encode()).digest()[:4]) / 2**32
            places[prompt] = (before[prompt.topic] + start) / totals[prompt.topic]
            before[prompt.topic] += 1
        order.sort(key=lambda prompt: places[prompt])
    dealt: Dealt = {}
    for name in SPLITS:
        dealt[name], order = tuple(order[: counts[name]]), order[counts[name] :]
    return dealt


def _order(prompt: Prompt, salt: str = "") -> tuple[str, str]:
    """A place among other prompts that depends on nothing but the prompt and the salt."""
    return sha256(f"{salt}\0{prompt.system or ''}\0{prompt.text}".encode()).hexdigest(), repr(prompt)


def _fingerprint(dealt: dict[str, Dealt]) -> str:
    """SHA-256 over side, split, system and text of all prompts in order, each part with its length in front."""
    found = sha256()
    for side in ("target", "neutral"):
        for name in SPLITS:
            for prompt in dealt[side][name]:
                for part in (side, name, "" if prompt.system is None else f"={prompt.system}", prompt.text):
                    data = part.encode()
                    found.update(len(data).to_bytes(8) + data)
    return found.hexdigest()


def _too_few(side: str, found: int, dropped: Counter[str], left: int, needed: int) -> PromptError:
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()) if count) or "none"
    return PromptError(
        f"{side} prompts: expected at least {needed} that differ, found {found}, of which {sum(dropped.values())} were"
        f" dropped ({reasons}) and {left} are left. Add {needed - left} or more."
    )
