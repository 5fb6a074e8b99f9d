"""What the recorder needs to know about a neuron: the interface that an adapter implements."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..neurons import Neuron
from ..ops.sequence import GradientRule, LayerOutput

__all__ = ["Layer"]


class Layer(Protocol):
    """Reads a neuron module for the recorder. One object may serve every module of a class."""

    output_is_membrane: bool
    """Whether the output is the membrane itself (a neuron that does not fire)."""
    attributes: tuple[str, ...] | None
    """Names in the module's `__dict__` whose values decide `fingerprint` and hold what of `parameters` is
    neither parameter nor buffer; None where more than that decides."""
    absent: tuple[str, ...]
    """Names that have to be missing there for a step to be an ordinary one."""

    def neuron(self, module: nn.Module, like: Tensor, shape: torch.Size) -> Neuron | None:
        """The neuron, when a stream begins; None if upstream's code has to run.

        like: 0-dim, dtype and device of the computation.  shape: of the features, without batch.
        """

    def fingerprint(self, module: nn.Module) -> tuple[object, ...]:
        """At every step: all that is no tensor and may change a result."""

    def parameters(self, module: nn.Module) -> tuple[Tensor, ...]:
        """At every step: the tensors that `neuron` read."""

    def memory(self, module: nn.Module) -> dict[Any, Any] | None:
        """Where the recorder may keep what `neuron` found, for as long as `fingerprint` and `parameters` are
        the same; it must live with the module and not be copied with it. None where more decides."""

    def rule(self, module: nn.Module, neuron: Neuron, grad_enabled: bool) -> GradientRule:
        """How to use the surrogate, when a stream is executed."""

    def observe(self, module: nn.Module, output: LayerOutput) -> bool:
        """Statistics of an executed stream; True asks for it to be executed again, with a new rule."""

    def output_dtype(self, module: nn.Module, dtype: torch.dtype) -> torch.dtype:
        """The dtype of the output for a current of `dtype`."""
