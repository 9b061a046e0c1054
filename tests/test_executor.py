"""The executor gives transformers' own tokens and states, whatever runs at once and whatever memory allows."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from excise.errors import ArchitectureError, PromptError, SpaceError
from excise.executor import Batch, Resident, _reader
from excise.lanes import Lanes, is_out_of_memory
from excise.model import Model, load
from excise.results import Prompt
from test_generation import build

Maker = Callable[..., Path]
TEXTS = (
    "Why?",
    "Where is the harbour of Velmora?",
    "Name three",
    "how are you",
    "what is the lamp and the rope",
    "oar",
)
PROMPTS = [Prompt(text) for text in TEXTS]


@pytest.fixture
def model(tiny_model: Maker) -> Model:
    return load(tiny_model(), device="cpu", micro_batch=4)


def resident(model: Model, **facts: Any) -> Resident:
    changed = replace(model.facts, **facts)
    return Resident(Model(**(vars(model) | {"facts": changed})), list(model.module.model.layers))


def test_padding_that_a_model_cannot_take(model: Model) -> None:
    """RWKV ignores the mask, so rows of different length never share a batch; a model with attention pads freely."""
    plain = resident(model)
    rows = [[5, 6, 7], [8, 9], [5, 6], [7, 8, 9]]
    assert [batch.index for batch in plain.batches(rows)] == [(0, 3, 1, 2)] and not plain.notes
    model.module = build("Rwkv", vocab_size=400)
    apart = Resident(model)
    assert [batch.index for batch in apart.batches(rows)] == [(0, 3), (1, 2)]
    assert "padding" in apart.notes[0]


# ---------------------------------------------------------------- batches
def test_batches(model: Model) -> None:
    batches = resident(model).batches([[5], [6, 7], [8, 9], [1, 2, 3], [4]])
    assert [batch.index for batch in batches] == [(3, 1, 2, 0), (4,)]
    first = batches[0]
    assert first.ids.tolist() == [[1, 2, 3], [0, 6, 7], [0, 8, 9], [0, 0, 5]]
    assert first.mask.tolist() == [[1, 1, 1], [0, 1, 1], [0, 1, 1], [0, 0, 1]]
    assert first.position_ids.tolist() == [[0, 1, 2], [0, 0, 1], [0, 0, 1], [0, 0, 0]]
    with pytest.raises(PromptError, match="row 1"):
        resident(model).batches([[5], []])


def test_results_do_not_depend_on_at_once(model: Model) -> None:
    rows = model.encode(PROMPTS * 4)
    found = []
    for at_once in (1, 2, 3):
        executor = resident(model, at_once=at_once, threads=1)
        logits = executor.map(rows, lambda batch, executor=executor: executor.forward(batch, 2))
        states = [states for _, states in executor.states(rows, 2)]
        answers = executor.generate(PROMPTS * 4, 20)
        found.append((logits, states, answers))
    for logits, states, answers in found[1:]:
        assert all(map(torch.equal, logits, found[0][0]))
        assert all(map(torch.equal, states, found[0][1]))
        assert answers == found[0][2]


def test_workers_run_as_the_caller_does(model: Model) -> None:
    executor = resident(model, at_once=2, threads=1)
    executor.micro_batch = 1
    value = contextvars.ContextVar("value", default="")
    value.set("the caller's")
    before = torch.get_num_threads()

    def look(batch: Batch) -> tuple[Any, ...]:
        flags = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        return (*flags, value.get(), torch.get_num_threads(), threading.current_thread() is threading.main_thread())

    assert set(executor.map([[5], [6], [7]], look)) == {(True, False, "the caller's", 1, False)}
    with torch.no_grad():
        assert set(executor.map([[5], [6]], look)) == {(False, False, "the caller's", 1, False)}
    with torch.inference_mode():
        assert set(executor.map([[5], [6]], look)) == {(False, True, "the caller's", 1, False)}
    assert torch.get_num_threads() == before


def test_gradients(model: Model) -> None:
    executor = resident(model, at_once=2, threads=1)
    weight = model.module.model.norm.weight.requires_grad_(True)
    rows = model.encode(PROMPTS)
    gradients = executor.map(rows, lambda batch: torch.autograd.grad(executor.forward(batch, 1).sum(), weight)[0])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


# ---------------------------------------------------------------- out of memory
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory(model: Model, error: Exception) -> None:
    """First fewer at once, then smaller micro-batches; the results are those of the smaller micro-batch, in order."""
    executor = resident(model, at_once=4, threads=1)
    sizes: list[int] = []

    def work(batch: Batch) -> tuple[int, ...]:
        sizes.append(len(batch.index))
        if len(batch.index) > 2:
            raise error
        return batch.index

    assert executor.map([[5]] * 10, work) == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert (executor.micro_batch, executor.at_once, executor.model.facts.micro_batch) == (2, 1, 2)
    assert executor.notes == ["out of memory: micro-batch halved to 2"]


def test_fewer_at_once_changes_no_number(model: Model) -> None:
    executor = resident(model, at_once=4, threads=1)
    running, most, lock = [0], [0], threading.Lock()

    def work(batch: Batch) -> torch.Tensor:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            full = running[0] > 1
        try:
            threading.Event().wait(0.02)
            if full:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 3 bytes")
            return executor.forward(batch, 1)
        finally:
            with lock:
                running[0] -= 1

    rows = model.encode(PROMPTS * 4)
    logits = executor.map(rows, work)
    assert most[0] > 1 and executor.at_once == 1 and executor.micro_batch == 4 and not executor.notes
    alone = resident(model, at_once=1, threads=1)
    assert all(map(torch.equal, logits, alone.map(rows, lambda batch: alone.forward(batch, 1))))


def test_states_go_on_with_a_smaller_micro_batch(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = model.encode(PROMPTS)
    expected = {
        i: states
        for index, part in resident(model).states(rows, 1)
        for i, states in zip(index, part.unbind(1), strict=False)
    }
    executor = resident(model, at_once=1)
    whole = executor._forward

    def small(ids: torch.Tensor, *args: Any, **options: Any) -> Any:
        if len(ids) > 2:
            raise MemoryError
        return whole(ids, *args, **options)

    monkeypatch.setattr(executor, "_forward", small)
    found = {
        i: states for index, part in executor.states(rows, 1) for i, states in zip(index, part.unbind(1), strict=True)
    }
    assert found.keys() == expected.keys() and executor.micro_batch == 2
    for i, states in found.items():
        torch.testing.assert_close(states, expected[i])


def test_no_room_at_all(model: Model) -> None:
    def work(batch: Batch) -> None:
        raise MemoryError

    with pytest.raises(SpaceError, match="one row at a time"):
        resident(model).map([[5]] * 3, work)


def test_other_errors_are_passed_on(model: Model) -> None:
    def work(batch: Batch) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        resident(model).map([[5]] * 3, work)
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(ValueError("out of memory"))


def test_measured_memory_limits_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(torch.device("cpu"), 4, 1)
    lanes._measured["kind"] = 10, 1000
    monkeypatch.setattr("excise.lanes.free_memory", lambda device: 3000)
    assert (lanes._fit("kind", 10), lanes._fit("kind", 20), lanes._fit("kind", 1000)) == (2, 1, 1)
    assert list(lanes.run(range(5), lambda job: job * 2, [1] * 5, "other")) == [(i, 2 * i) for i in range(5)]
    assert lanes._measured["other"][0] == 1


# ---------------------------------------------------------------- states and logits
def test_states_are_the_blocks_outputs(model: Model) -> None:
    executor = resident(model)
    rows = model.encode(PROMPTS)
    seen: set[int] = set()
    for index, states in executor.states(rows, 3):
        assert states.shape == (2, len(index), 3, 32) and states.dtype == torch.float32
        for place, i in enumerate(index):
            with torch.no_grad():
                hidden = model.module(torch.tensor([rows[i]]), output_hidden_states=True).hidden_states
            last = model.module.model.norm(states[1, place])
            torch.testing.assert_close(states[0, place], hidden[1][0, -3:].flip(0), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(last, hidden[2][0, -3:].flip(0), atol=1e-4, rtol=1e-4)
            seen.add(i)
        assert torch.is_grad_enabled()
        executor.forward(Batch((0,), torch.tensor([[5]]), torch.tensor([[1]])), 1)  # hooks mind their own batches only
    assert seen == set(range(len(rows)))
    left = model.module.model.layers[0]._forward_hooks.values()
    assert not [hook for hook in left if hook.__module__ == "excise.executor"]


def test_states_refusals(model: Model) -> None:
    with pytest.raises(PromptError, match="at least 2"):
        next(resident(model).states([[5]], 2))
    with pytest.raises(ArchitectureError, match="Pass blocks"):
        next(Resident(model).states([[5]], 1))
    seen = threading.local()
    seen.states = []
    with pytest.raises(ArchitectureError, match=r"Linear: .*\[4, 1, 2, 8\]"):
        _reader(seen, 1)(torch.nn.Linear(1, 1), (), torch.zeros(4, 1, 2, 8))


def test_forward_keeps_the_last_positions(model: Model) -> None:
    executor = resident(model)
    rows = model.encode(PROMPTS[:4])
    [batch] = executor.batches(rows)
    with torch.no_grad():
        logits = executor.forward(batch, 3)
        for place, i in enumerate(batch.index):
            whole = model.module(torch.tensor([rows[i]])).logits[0, -3:]
            torch.testing.assert_close(logits[place], whole, atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------- answers
def test_answers(model: Model) -> None:
    executor = resident(model)
    answers = executor.generate(PROMPTS, 8)
    assert [answer.prompt for answer in answers] == PROMPTS
    for answer in answers:
        assert answer.finish == ("stop" if answer.tokens[-1] in model.end_tokens else "length")
        assert answer.finish == "stop" or len(answer.tokens) == 8
        assert "<|" not in answer.text and answer.reasoning is None
    assert executor.generate([], 8) == []


def test_prefix_is_part_of_the_answer(model: Model) -> None:
    answers = resident(model).generate(PROMPTS, 5, prefix="Sure!")
    begun = model.tokenizer("Sure!")["input_ids"]
    for answer in answers:
        assert answer.text.startswith("Sure!") and list(answer.tokens[: len(begun)]) == begun
        assert len(answer.tokens) <= len(begun) + 5


def test_a_row_can_be_stopped(model: Model) -> None:
    executor = resident(model)
    free = executor.generate(PROMPTS, 12)
    shown: list[tuple[int, int]] = []

    def stop(row: int, tokens: Any) -> bool:
        shown.append((row, len(tokens)))
        return row % 2 == 0 and len(tokens) == 3

    stopped = executor.generate(PROMPTS, 12, stop=stop)
    for row, (one, other) in enumerate(zip(free, stopped, strict=True)):
        if row % 2 == 0 and len(one.tokens) > 3:
            assert other.tokens == one.tokens[:3] and other.finish == "stop"
        else:
            assert other == one
    assert sorted(shown) == sorted(set(shown)), "each row is shown once for each token"


def test_sampling_depends_on_seed_and_place_only(model: Model) -> None:
    executor = resident(model)
    answers = executor.generate(PROMPTS, 10, temperature=1.0, seed=3)
    assert answers == resident(model, micro_batch=2).generate(PROMPTS, 10, temperature=1.0, seed=3)
    assert answers != executor.generate(PROMPTS, 10, temperature=1.0, seed=4)
    assert [a.tokens for a in executor.generate(PROMPTS, 10, temperature=1e-4)] == [
        a.tokens for a in executor.generate(PROMPTS, 10)
    ]
