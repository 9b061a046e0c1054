"""Several jobs at once on one machine, results in order, as many at once as the memory holds.

Threads do it: torch releases the interpreter's lock inside its operations. Each job computes with a fixed number of
arithmetic threads, so how many jobs run at once changes no number.
"""

from __future__ import annotations

import contextvars
import gc
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from excise.placement import free_memory, peak_memory

J = TypeVar("J")
T = TypeVar("T")
_ROOM = 0.8
"""Part of the free memory that is planned with."""


class NoRoomError(Exception):
    """One job alone ran out of memory. Caught in executor.py, which makes the jobs smaller."""


class Lanes:
    """Runs jobs; on a CPU in threads of their own, elsewhere in the caller's.

    Args:
        measure: find out how much memory a job takes, by running the first of its kind alone.
    """

    def __init__(self, device: torch.device, at_once: int, threads: int, *, measure: bool = True) -> None:
        self.at_once = at_once
        """Never more than this; made smaller where memory ran out."""
        self._device = device
        self._threads = threads
        self._measure = measure
        self._pool: ThreadPoolExecutor | None = None
        self._measured: dict[Hashable, tuple[int, int]] = {}

    def run(
        self, jobs: Sequence[J], work: Callable[[J], T], sizes: Sequence[int], kind: Hashable
    ) -> Iterator[tuple[J, T]]:
        """(job, its result) in order.

        Jobs see the caller's grad mode, inference mode and context variables.

        Args:
            sizes: of the jobs, in any unit, largest first; memory is measured on the first job of a kind.
            kind: jobs of one kind need memory in proportion to their sizes.

        Raises:
            NoRoomError: out of memory with one job at once.
        """
        if self._device.type != "cpu":
            for job in jobs:
                yield job, self._alone(job, work)
            return
        done = 0
        unknown = len(jobs) > 1 and self._measured.get(kind, (0, 0))[0] < sizes[0]
        if unknown and self._measure and self.at_once > 1:
            with peak_memory() as peak:
                first = self._alone_in_pool(jobs[0], work)
            if peak.bytes is not None:
                self._measured[kind] = sizes[0], peak.bytes
            yield jobs[0], first
            done = 1
        while done < len(jobs):
            width = self._fit(kind, sizes[done])
            try:
                for result in self._side_by_side(jobs[done:], work, width):
                    done += 1
                    yield jobs[done - 1], result
            except _Full as error:
                if width == 1:
                    raise NoRoomError(str(error)) from error
                self.at_once = max(1, width // 2)

    def _fit(self, kind: Hashable, size: int) -> int:
        """How many jobs fit the memory that is free now."""
        if kind not in self._measured or self.at_once == 1:
            return self.at_once
        measured, peak = self._measured[kind]
        each = max(1.0, peak * size / measured)
        return max(1, min(self.at_once, int(free_memory(self._device) * _ROOM / each)))

    def _alone(self, job: J, work: Callable[[J], T]) -> T:
        try:
            return work(job)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            message = str(error)
        _release(self._device)  # outside the except: the traceback holds the tensors of the failed pass
        raise NoRoomError(message)

    def _alone_in_pool(self, job: J, work: Callable[[J], T]) -> T:
        try:
            return next(self._side_by_side([job], work, 1))
        except _Full as error:
            raise NoRoomError(str(error)) from error

    def _side_by_side(self, jobs: Sequence[J], work: Callable[[J], T], width: int) -> Iterator[T]:
        """Results in order, `width` jobs running or finished and not yet taken; raises _Full."""
        pool = self._threads_pool()
        grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

        def task(job: J) -> T:
            with torch.inference_mode(inference), torch.set_grad_enabled(grad):
                return work(job)

        def submit(job: J) -> Future[T]:
            return pool.submit(contextvars.copy_context().run, task, job)

        waiting = list(jobs)
        running: list[Future[T]] = []
        try:
            while waiting or running:
                while waiting and len(running) < width:
                    running.append(submit(waiting.pop(0)))
                result = running[0].result()
                running.pop(0)
                yield result
                del result
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            message = str(error)
        finally:
            for future in running:
                future.cancel()
            wait(running)
        if waiting or running:
            running.clear()
            _release(self._device)
            raise _Full(message)

    def _threads_pool(self) -> ThreadPoolExecutor:
        """Threads that are kept from call to call: starting one costs more than a small forward pass."""
        if self._pool is None:
            before = torch.get_num_threads()
            self._pool = ThreadPoolExecutor(self.at_once, "excise", initializer=_use_threads, initargs=(self._threads,))
            all_there = threading.Barrier(self.at_once)
            wait([self._pool.submit(all_there.wait) for _ in range(self.at_once)])
            torch.set_num_threads(before)
        return self._pool


class _Full(Exception):
    """A job ran out of memory beside others."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is a full memory (of a GPU, of torch's CPU allocator, of Python) and not another failure."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in text or "can't allocate memory" in text or "out of memory" in text
    )


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _use_threads(count: int) -> None:
    # The number is kept per thread, and a thread's first torch operation overwrites it with the process's: let that
    # first operation be this one (seen in torch 2.13: without it, set_num_threads(1) here ran with 2).
    torch.get_num_threads()
    torch.set_num_threads(count)
