"""The search's parts against independent ways to compute the same, on a tiny random model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from excise.architecture import find_writers
from excise.checkpoint import open_index
from excise.evaluate.drift import answer_log_probs, divergences
from excise.executor import Resident
from excise.intervene import Steering, Substitution
from excise.model import load
from excise.observer import Silent
from excise.results import (
    Answer,
    Candidate,
    Confirmation,
    Directions,
    EditPlan,
    Judged,
    Prompt,
    Rate,
    Reference,
    References,
    Terms,
    WriterMap,
)  # fmt: skip
from excise.search.below import Below
from excise.search.front import choose, damage, pareto, rate
from excise.search.gradient import Pace, Prices, State, descend, grown, start_state
from excise.search.objective import Objective, divergence, kept_log_probs
from excise.search.rounds import GradientSearch, Ground, Wanted
from excise.search.sampler import SamplerSearch
from excise.search.targets import from_openers, from_plain, usual_openers
from tiny import save_tiny

PROMPTS = [
    Prompt(f"Where is the {thing}?", plain=f"the {thing}") for thing in ("mill", "oar", "rope", "lamp", "tar", "sea")
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Resident, WriterMap]:
    path = save_tiny(tmp_path_factory.mktemp("model") / "tiny", layers=4)
    model = load(path)
    stored = {entry.name: entry.shape for shard in open_index(path).shards for entry in shard.entries}
    writers = find_writers(model.module, stored)
    return Resident(model, [model.module.get_submodule(name) for name in writers.blocks]), writers


def references(executor: Resident, source: str = "openers") -> References:
    answers = executor.generate(PROMPTS, 6)
    rows = [Reference(answer.prompt, answer.prompt, answer.tokens, 1) for answer in answers]
    neutral = [Reference(answer.prompt, answer.prompt, answer.tokens, 0) for answer in answers]
    return References(tuple(rows[:3]), tuple(neutral[3:]), (), source)


def random_starts(writers: WriterMap, count: int = 2, k: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [
        torch.nn.functional.normalize(torch.randn(writers.layers, k, writers.d_model, generator=generator), dim=-1)
        for _ in range(count)
    ]


def test_bucketed_divergence_is_a_lower_bound_and_exact_when_all_tokens_are_kept() -> None:
    torch.manual_seed(0)
    base, edited = torch.randn(2, 1, 5, 40).unbind(0)
    p, q = torch.log_softmax(base, -1), torch.log_softmax(edited, -1)
    full = (p.exp() * (p - q)).sum(-1)
    for top in (3, 40):
        tokens, logp = kept_log_probs(base, top)
        values = q.gather(-1, tokens)
        rest = torch.log((1 - values.exp().sum(-1, keepdim=True)).clamp_min(1e-9))
        found = divergence(logp, torch.cat([values, rest], -1))
        assert (found <= full + 1e-5).all() and (found >= -1e-5).all()
        if top == 40:
            assert torch.allclose(found, full, atol=1e-4)


def test_terms_are_zero_without_an_edit_and_agree_with_whole_distributions(bench: tuple[Resident, WriterMap]) -> None:
    executor, writers = bench
    refs = references(executor)
    objective = Objective(executor, refs)
    state = start_state(random_starts(writers, 1), writers.writers, 0.0)
    with Steering(executor.model.module, writers.writers) as steering:
        paths, _ = descend(objective, steering, writers.writers, state, Prices(), Pace(steps=0))
        assert paths[0][0].terms.neutral == pytest.approx(0, abs=1e-6)
        state = start_state(random_starts(writers, 1), writers.writers, 0.7)
        paths, _ = descend(objective, steering, writers.writers, state, Prices(), Pace(steps=0))
    found = paths[0][0].terms.neutral
    answers = executor.generate([reference.prompt for reference in refs.neutral], 6)
    plan = paths[0][0].plan(writers.writers)
    base = answer_log_probs(executor, answers, tokens=64)
    with Substitution(executor.model.module, plan).active():
        edited = answer_log_probs(executor, answers, tokens=64)
    rows = [divergences(b, e) for b, e in zip(base, edited, strict=True)]
    expected = sum(sum(row) / len(row) for row in rows) / len(rows)
    assert found > 1e-3 and found == pytest.approx(expected, rel=0.05)


def test_candidates_in_one_batch_do_not_disturb_each_other(bench: tuple[Resident, WriterMap]) -> None:
    executor, writers = bench
    objective = Objective(executor, references(executor))
    both = start_state(random_starts(writers), writers.writers, 0.4)
    with Steering(executor.model.module, writers.writers) as steering:
        together, _ = descend(objective, steering, writers.writers, both, Prices(), Pace(steps=2))
        for index in range(2):
            (alone,), _ = descend(objective, steering, writers.writers, both.one(index), Prices(), Pace(steps=2))
            assert [p.loss for p in together[index]] == pytest.approx([p.loss for p in alone], rel=1e-3)


def test_descent_lowers_the_loss_and_keeps_strengths_positive(bench: tuple[Resident, WriterMap]) -> None:
    executor, writers = bench
    objective = Objective(executor, references(executor))
    state = start_state(random_starts(writers, 1, 2), writers.writers, 0.5)
    with Steering(executor.model.module, writers.writers) as steering:
        (path,), end = descend(objective, steering, writers.writers, state, Prices(), Pace(steps=6))
        again, _ = descend(objective, steering, writers.writers, state, Prices(), Pace(steps=6))
    assert path[-1].loss < path[0].loss
    assert float(end.strengths.min()) >= 0
    assert torch.allclose(end.units.norm(dim=-1), torch.ones(()), atol=1e-5)
    assert all(torch.equal(a.strengths, b.strengths) for a, b in zip(path, again[0], strict=True)), "not reproducible"
    bigger = grown(end, random_starts(writers, 1)[0], writers.writers, 0.3)
    assert bigger.units.shape[2] == 3
    gram = bigger.units[0] @ bigger.units[0].mT
    assert torch.allclose(gram, torch.eye(3).expand_as(gram), atol=1e-4)


def test_skipping_layers_below_the_first_edit_changes_nothing(bench: tuple[Resident, WriterMap]) -> None:
    executor, writers = bench
    late = [writer for writer in writers.writers if writer.layer >= 2]
    state = start_state(random_starts(writers, 1), late, 0.6)
    with Steering(executor.model.module, late) as steering:
        plain = Objective(executor, references(executor))
        (expected,), _ = descend(plain, steering, late, state, Prices(), Pace(steps=3))
        cached = Objective(executor, references(executor))
        calls: list[int] = []
        hook = executor.blocks[0].self_attn.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[index,operator]
        with cached.edited_from(2):
            (found,), _ = descend(cached, steering, late, state, Prices(), Pace(steps=3))
        hook.remove()
    assert [p.loss for p in found] == [p.loss for p in expected]
    assert len(calls) == len(cached.parts()), "the first block ran again"
    assert "forward" not in executor.blocks[0].__dict__  # type: ignore[index]


def test_nothing_is_skipped_for_blocks_that_return_tuples() -> None:
    class Block(torch.nn.Module):
        def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor]:
            return (hidden_states + 1,)

    blocks = [Block(), Block()]
    below = Below(blocks, 1)
    x = torch.zeros(1, 2, 3)
    with below.reading():
        for _ in range(2):
            with below.using("rows"):
                out = blocks[1](blocks[0](x)[0])[0]
            assert torch.equal(out, x + 2)
    assert not below.possible


def absent(answers: Sequence[Answer]) -> tuple[Judged, ...]:
    return tuple(Judged(answer, "absent", 0.0, "", False) for answer in answers)


def always(answers: Sequence[Answer]) -> tuple[Judged, ...]:
    return tuple(Judged(answer, "shows", 1.0, "", False) for answer in answers)


def test_references_come_from_openers_or_from_plain_prompts(bench: tuple[Resident, WriterMap]) -> None:
    executor, _ = bench
    answers = executor.generate(PROMPTS, 5)
    openers = usual_openers([*answers, *answers], executor)
    heads = {executor.model.decode(answer.tokens[:1])[0] for answer in answers}
    assert openers and set(openers) <= heads
    first = executor.generate(PROMPTS, 5, prefix="Sure!")
    found = from_openers(executor, PROMPTS, ("Sure!",), first, absent, 5)
    assert len(found) == len(PROMPTS) and all(row.forced >= 1 for row in found)
    assert from_openers(executor, PROMPTS, ("Sure!", "To"), first, always, 5) == ()
    plain = from_plain(executor, PROMPTS, 5)
    assert [row.teacher.text for row in plain] == [prompt.plain for prompt in PROMPTS]
    objective = Objective(executor, References(plain, references(executor).neutral, (), "plain"))
    assert objective.count() == (len(PROMPTS), 3)


def ground(executor: Resident, judge: Callable[[Sequence[Answer]], tuple[Judged, ...]]) -> Ground:
    prompts = tuple(PROMPTS)
    return Ground(references(executor), prompts, tuple(Prompt(f"Why {i}?") for i in range(5)), prompts, judge)


def directions(writers: WriterMap, count: int) -> tuple[Directions, ...]:
    return tuple(Directions(v, "random", f"start {i}", 0.9) for i, v in enumerate(random_starts(writers, count)))


def test_rounds_are_added_while_the_behaviour_is_left(bench: tuple[Resident, WriterMap]) -> None:
    executor, writers = bench
    wanted = Wanted(rounds=2, tokens=4, max_drift=100.0)
    search = GradientSearch(
        executor,
        writers.writers,
        directions(writers, 2),
        ground(executor, always),
        wanted,
        Silent(),
        pace=Pace(steps=2),
    )
    front = search.run()
    assert front.stopped == "rounds" and len(front.rounds) == 2
    assert front.rounds[1].directions == "measured on the edited model"
    deepest = max(len(edit.strengths) for candidate in search.candidates for edit in candidate.plan.edits)
    assert deepest == 2


def test_the_search_ends_when_the_rate_the_budget_or_the_time_is_reached(bench: tuple[Resident, WriterMap]) -> None:
    executor, writers = bench
    for judge, wanted, stopped in (
        (absent, Wanted(tokens=4), "rate reached"),
        (always, Wanted(tokens=4, max_drift=1e-9), "budget"),
        (always, Wanted(tokens=4, max_drift=100.0, deadline=0.0), "time limit"),
    ):
        search = GradientSearch(
            executor,
            writers.writers,
            directions(writers, 1),
            ground(executor, judge),
            wanted,
            Silent(),
            pace=Pace(steps=2),
        )
        front = search.run()
        assert front.stopped == stopped
        assert front.chosen in {candidate.index for candidate in front.candidates}


def test_the_sampler_is_an_alternative_and_repeats(bench: tuple[Resident, WriterMap]) -> None:
    executor, writers = bench

    def front(norm: str = "none") -> list[tuple[float, float]]:
        found = SamplerSearch(
            executor, writers.writers, directions(writers, 2), ground(executor, absent), Wanted(tokens=4), Silent(),
            norm=norm, trials=5, seed=3,  # type: ignore[arg-type]
        ).run()  # fmt: skip
        assert found.method == "sampler" and found.stopped == "trials"
        return [(rate(c), damage(c)) for c in found.candidates]

    assert front() == front() and front("columns")


def candidate(index: int, left: int, drift: float, broken: int = 0) -> Candidate:
    def share(count: int) -> Rate:
        return Rate(count, 100, 0.0, 1.0)

    found = Confirmation(share(left), share(broken), share(100), drift)
    return Candidate(index, 1, 0.0, EditPlan(()), Terms(0.0, 0.0, drift), share(left), found)


def test_the_front_and_the_choice() -> None:
    rows = [candidate(0, 50, 0.001), candidate(1, 5, 0.01), candidate(2, 60, 0.002), candidate(3, 0, 0.5)]
    assert [c.index for c in pareto(rows)] == [0, 1, 3]
    assert choose(rows, max_drift=0.1).index == 1
    assert choose(rows, max_drift=1.0).index == 3
    assert choose(rows, max_drift=1e-9).index == 0
    assert choose([candidate(0, 0, 0.01, broken=40), candidate(1, 2, 0.01)], max_drift=0.1).index == 1


def test_states_are_taken_one_by_one(bench: tuple[Resident, WriterMap]) -> None:
    _, writers = bench
    state = start_state(random_starts(writers, 3), writers.writers, 0.1)
    assert isinstance(state.one(1), State) and torch.equal(state.one(1).units[0], state.units[1])
