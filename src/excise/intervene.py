"""An edit on the live model: hooks with per-row strengths and gradients, or whole parameters swapped and put back.

Hooks change y = W x on its way out (method.md §1): y' = y − λ u(uᵀy) for plain ablation, which is the stored-tensor
edit W − λ u(uᵀW) to rounding. Values live in a context variable, so
that several micro-batches may run at once, each with its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from excise import linalg
from excise.errors import ArchitectureError
from excise.results import EditPlan, Norm, Writer

Dtypes = Mapping[str, torch.dtype]
"""Stored dtype of each writer, by its name."""


@dataclass(frozen=True)
class Setting:
    """What the hooks apply now. Leading axis: rows of the batch, or 1 for all alike."""

    units: Mapping[str, Float[Tensor, "one_or_row k d_model"]]
    strengths: Mapping[str, Float[Tensor, "row k"]]
    rows: int
    norm: Norm = "none"


class Steering:
    """Forward hooks on writers; does nothing until `using` gives them values. Use as a context manager."""

    def __init__(self, module: nn.Module, writers: Sequence[Writer]) -> None:
        self._module = module
        self._writers = tuple(writers)
        self._now: ContextVar[Setting | None] = ContextVar("setting", default=None)
        self._stack = ExitStack()

    def __enter__(self) -> Steering:
        for writer in self._writers:
            target = self._module.get_submodule(writer.module)
            after = target.register_forward_hook(self._after(writer))
            self._stack.callback(after.remove)
            before = target.register_forward_pre_hook(self._before(writer))
            self._stack.callback(before.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def using(
        self, units: Mapping[str, Tensor], strengths: Mapping[str, Tensor], *, rows: int, norm: Norm = "none"
    ) -> Iterator[None]:
        """Apply these values (names of writers; missing ones are left alone) until the end, in this context."""
        token = self._now.set(Setting(units, strengths, rows, norm))
        try:
            yield
        finally:
            self._now.reset(token)

    def _after(self, writer: Writer) -> Any:
        def hook(target: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            setting: Setting | None = self._now.get()
            if setting is None or writer.name not in setting.strengths:
                return None
            return _steer(target, writer, setting, output)

        return hook

    def _before(self, writer: Writer) -> Any:
        def hook(target: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            setting: Setting | None = self._now.get()
            if setting is None or setting.norm != "columns" or writer.name not in setting.strengths:
                return None
            weight = _matrix(target, writer)
            units = setting.units[writer.name].to(weight.device, torch.float32)
            strengths = setting.strengths[writer.name].to(weight.device, torch.float32)
            count = max(len(units), len(strengths))
            units, strengths = units.expand(count, -1, -1), strengths.expand(count, -1)
            scale = torch.stack([linalg.column_scale(weight, u, s) for u, s in zip(units, strengths, strict=True)])
            x = args[0]
            return (x * scale.reshape(count, *[1] * (x.dim() - 2), -1).to(x.dtype), *args[1:])

        return hook


def _matrix(target: nn.Module, writer: Writer) -> Float[Tensor, "out in"]:
    """The writer's matrix in [out, in] layout, float32; only plain matrices have one."""
    if writer.layout not in ("linear", "conv1d"):
        raise ArchitectureError(
            f"{writer.name}: norm-keeping edits of routed experts differ by expert and cannot run as a hook. "
            "Use intervene.substituted, or norm = none."
        )
    weight: Tensor = getattr(target, "weight").detach().float()  # noqa: B009
    return weight if writer.layout == "linear" else weight.T


def _steer(target: nn.Module, writer: Writer, setting: Setting, output: Tensor) -> Tensor:
    """y' for one writer's output, [row, token, d] or, from experts modules, [row · token, d]."""
    y = output.reshape(setting.rows, -1, output.shape[-1])
    units = setting.units[writer.name].to(y.device, y.dtype)
    strengths = setting.strengths[writer.name].to(y.device, y.dtype)
    if setting.norm == "rows":
        return _steer_rows(target, writer, units, strengths, y).reshape(output.shape)
    along = torch.einsum("rtd,rkd->rtk", y, units.expand(len(y), -1, -1)) * strengths[:, None, :]
    return (y - torch.einsum("rtk,rkd->rtd", along, units.expand(len(y), -1, -1))).reshape(output.shape)


def _steer_rows(target: nn.Module, writer: Writer, units: Tensor, strengths: Tensor, y: Tensor) -> Tensor:
    """y' = s ⊙ (y − λ (Dv)(aᵀx)), with aᵀx = (D⁻¹v)ᵀ W x; the bias loses its part along v and is not scaled."""
    weight = _matrix(target, writer)
    if units.shape[0] != 1 or units.shape[1] != 1:
        raise ArchitectureError(f"{writer.name}: the row-normalised hook takes one direction for all rows.")
    unit = units[0, 0].float()
    bias: Tensor | None = getattr(target, "bias", None)
    plain = y if bias is None else y - bias
    form = linalg.row_form(weight, unit)
    norms = weight.norm(dim=1)
    inverse = torch.where(norms > linalg.EPS, unit / norms.clamp_min(linalg.EPS), torch.zeros_like(unit))
    changed = plain - (plain @ inverse)[..., None] * strengths[:, None, :1] * form.out_vector
    scaled = form.scale(strengths[:, :1])[:, None, :] * changed
    if bias is None:
        return scaled
    return scaled + (bias - strengths[:, None, :1] * (bias @ unit) * unit)


@contextmanager
def hooked(module: nn.Module, plan: EditPlan, *, rows: int) -> Iterator[Steering]:
    """The plan as hooks, for batches of `rows` rows, the same for every row."""
    device = next(module.parameters()).device
    units = {edit.writer.name: edit.units[None].to(device) for edit in plan.edits}
    strengths = {edit.writer.name: edit.strengths[None].to(device) for edit in plan.edits}
    steering = Steering(module, [edit.writer for edit in plan.edits])
    with steering, steering.using(units, strengths, rows=rows, norm=plan.norm):
        yield steering


class Substitution:
    """The plan as parameters: W' in place of W while `active`, and the very same W back afterwards, whatever happens.

    The edited matrices are computed once. `rounded_to` passes them through the checkpoint's dtype (by the writer's
    name), so that what runs is what will be stored.
    """

    def __init__(self, module: nn.Module, plan: EditPlan, *, rounded_to: Dtypes | None = None) -> None:
        self._swaps: list[tuple[nn.Parameter, Tensor]] = []
        with torch.no_grad():
            for edit in plan.edits:
                parameter = module.get_parameter(edit.writer.parameter)
                stored = None if rounded_to is None else rounded_to[edit.writer.name]
                changed = _edited(parameter, edit.writer.layout, edit.units, edit.strengths, plan.norm)
                self._add(parameter, changed, stored)
                bias = getattr(module.get_submodule(edit.writer.module), "bias", None)
                if isinstance(bias, nn.Parameter):
                    units, strengths = edit.units.to(bias.device), edit.strengths.to(bias.device)
                    self._add(bias, bias.float() - (units.T * strengths) @ (units @ bias.float()), stored)

    def _add(self, parameter: nn.Parameter, value: Tensor, stored: torch.dtype | None) -> None:
        rounded = value if stored is None else value.to(stored)
        self._swaps.append((parameter, rounded.to(parameter.dtype)))

    @contextmanager
    def active(self) -> Iterator[None]:
        """Run with the edited parameters."""
        with ExitStack() as undo:
            for parameter, value in self._swaps:
                undo.callback(setattr, parameter, "data", parameter.data)
                parameter.data = value
            yield


@contextmanager
def substituted(module: nn.Module, plan: EditPlan, *, rounded_to: Dtypes | None = None) -> Iterator[None]:
    """`Substitution(...).active()` in one step."""
    with Substitution(module, plan, rounded_to=rounded_to).active():
        yield


def _edited(parameter: Tensor, layout: str, units: Tensor, strengths: Tensor, norm: Norm) -> Tensor:
    """W' in the parameter's own layout, float32."""
    units, strengths = units.to(parameter.device), strengths.to(parameter.device)
    weight = parameter.detach().float()
    if layout == "linear":
        return linalg.edit_matrix(weight, units, strengths, norm)
    if layout == "conv1d":
        return linalg.edit_matrix(weight.T, units, strengths, norm).T.contiguous()
    if layout == "experts_out_in":
        return torch.stack([linalg.edit_matrix(expert, units, strengths, norm) for expert in weight])
    return torch.stack([linalg.edit_matrix(expert.T, units, strengths, norm).T for expert in weight])
