"""Recording of time loops: an unmodified Python loop over accelerated modules is executed as whole sequences.

Calls return deferred tensors; nothing is computed until a value is needed. docs/how-it-works.md describes
the scheme.
"""

from __future__ import annotations

from . import uses as _uses  # noqa: F401  (gives Deferred its behaviour)
from .backoff import reset_backoff
from .deferred import drop_spares, is_deferred, shape_of
from .execute import flush
from .layer import Layer
from .materialise import resolve, resolve_all
from .native import (
    next_feed,
    next_step,
    quicken_attributes,
    restore_attributes,
    stands_in,
    take_feed_calls,
    take_neuron_calls,
)
from .previous import is_pending, previous_state
from .reasons import flush_reasons
from .reasons import forget as forget_flush_reasons
from .record import record_feed, record_sequence, record_step
from .record_operation import record_module_call

__all__ = [
    "Layer",
    "drop_spares",
    "flush",
    "flush_reasons",
    "forget_flush_reasons",
    "is_deferred",
    "is_pending",
    "next_feed",
    "next_step",
    "previous_state",
    "quicken_attributes",
    "record_feed",
    "record_module_call",
    "record_sequence",
    "record_step",
    "reset_backoff",
    "resolve",
    "resolve_all",
    "restore_attributes",
    "shape_of",
    "stands_in",
    "take_feed_calls",
    "take_neuron_calls",
]
