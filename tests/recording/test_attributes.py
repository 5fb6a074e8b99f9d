"""Attributes of the modules that hold accelerated ones: found sooner, and never otherwise than in stock."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

import sparse_backend
from sparse_backend.recording import quicken_attributes, restore_attributes

pytest.importorskip("sparse_backend._recording")


def make_class() -> type[nn.Module]:
    """A new class each time: what is quickened is the class."""

    class Net(nn.Module):
        kind = "of the class"
        shadowed = "of the class"

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.lif = snn.Leaky(beta=0.9)
            self.scale = nn.Parameter(torch.ones(2))
            self.register_buffer("offset", torch.zeros(2))
            self.register_buffer("nothing", None)
            self.plain = "of the instance"
            self.shadowed: Any = nn.Identity()  # never seen: the class comes first, in stock too

        @property
        def double(self) -> Tensor:
            return 2 * self.scale

        @property
        def broken(self) -> Tensor:
            return self.missing  # type: ignore[no-any-return]

        def forward(self, x: Tensor) -> Tensor:
            mem = self.lif.init_leaky()
            out = []
            for step in x:
                spikes, mem = self.lif(self.fc(step), mem)
                out.append(spikes * self.scale + self.offset)
            return torch.stack(out)

    return Net


def goes_by_python(net: nn.Module, name: str) -> bool:
    """Whether `nn.Module.__getattr__` runs for this attribute."""
    code = nn.Module.__getattr__.__code__
    seen = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is code:
            seen.append(frame.f_locals["name"])

    sys.setprofile(profile)
    try:
        getattr(net, name)
    finally:
        sys.setprofile(None)
    return name in seen


def outcome(read: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "value", read()
    except AttributeError as error:
        return "error", str(error)


NAMES = [
    "fc",
    "lif",
    "scale",
    "offset",
    "nothing",
    "plain",
    "kind",
    "shadowed",
    "training",
    "missing",
    "broken",
]


@pytest.mark.parametrize("name", [*NAMES, "forward", "_modules", "__class__", "__dict__"])
def test_every_attribute_is_the_same(name: str) -> None:
    net = make_class()()
    before = outcome(lambda: getattr(net, name))
    sparse_backend.accelerate(net)
    after = outcome(lambda: getattr(net, name))
    assert before == after
    if before[0] == "value":
        assert before[1] is after[1] or before[1] == after[1]
    sparse_backend.restore(net)
    assert outcome(lambda: getattr(net, name)) == before


def test_the_detour_is_saved_until_restore() -> None:
    net = make_class()()
    assert goes_by_python(net, "fc")
    sparse_backend.accelerate(net)
    assert not any(goes_by_python(net, name) for name in ("fc", "lif", "scale", "offset", "nothing"))
    sparse_backend.restore(net)
    assert goes_by_python(net, "fc")


def test_a_class_is_given_back_with_its_last_model() -> None:
    cls = make_class()
    one, other = cls(), cls()
    with sparse_backend.accelerated(one):
        sparse_backend.accelerate(other)
        assert not goes_by_python(one, "fc")
    assert not goes_by_python(one, "fc")  # the other still needs it
    sparse_backend.restore(other)
    assert goes_by_python(one, "fc")


def test_accelerated_inside_accelerated() -> None:
    net = make_class()()
    sparse_backend.accelerate(net)
    with sparse_backend.accelerated(net):
        pass
    assert not goes_by_python(net, "fc")
    sparse_backend.restore(net)
    assert goes_by_python(net, "fc")


def test_changes_are_seen_at_once() -> None:
    net = make_class()()
    sparse_backend.accelerate(net)
    new: Any = nn.Linear(3, 2)
    net.fc = new
    assert net.fc is new
    net._modules["fc"] = other = nn.Linear(3, 2)
    assert net.fc is other
    net.__dict__["fc"] = "of the instance"
    assert net.fc == "of the instance"
    del net.__dict__["fc"]
    assert net.fc is other
    type(net).fc = "of the class"  # type: ignore[assignment]
    assert net.fc == "of the class"
    del type(net).fc
    assert net.fc is other
    del net.fc
    with pytest.raises(AttributeError, match=f"'{type(net).__name__}' object has no attribute 'fc'"):
        _ = net.fc


def test_a_parameter_comes_before_a_module() -> None:
    net = make_class()()
    sparse_backend.accelerate(net)
    net._parameters["fc"] = parameter = nn.Parameter(torch.ones(1))
    assert net.fc is parameter
    del net._parameters["fc"]
    net.__dict__.pop("_buffers")
    assert net.fc is net._modules["fc"]


class Watching(dict[str, Any]):
    def __getitem__(self, name: str) -> Any:
        return f"watched {name}"


def test_a_dict_of_another_kind_is_asked_by_python() -> None:
    net = make_class()()
    sparse_backend.accelerate(net)
    net.__dict__["_modules"] = Watching(net._modules)
    assert net.fc == "watched fc"  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("name", ["__getattr__", "__getattribute__"])
def test_a_class_with_its_own_way_is_left_alone(name: str) -> None:
    asked = []

    def own(self: nn.Module, attribute: str) -> Any:
        asked.append(attribute)
        return getattr(super(Own, self), name)(attribute)

    Own = type("Own", (make_class(),), {name: own})
    net = Own()
    sparse_backend.accelerate(net)
    asked.clear()
    assert isinstance(net.fc, nn.Linear) and "fc" in asked


@pytest.mark.parametrize("where", ["class", "base", "Module"])
def test_a_later_getattr_is_obeyed(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    base = make_class()
    net = type("Sub", (base,), {})()
    sparse_backend.accelerate(net)
    owner = {"class": type(net), "base": base, "Module": nn.Module}[where]
    stock = nn.Module.__getattr__
    with monkeypatch.context() as patch:
        patch.setattr(owner, "__getattr__", lambda self, name: ("patched", name), raising=False)
        assert net.fc == ("patched", "fc")  # type: ignore[comparison-overlap]
    assert nn.Module.__getattr__ is stock
    assert isinstance(net.fc, nn.Linear)


def test_a_later_subclass_has_its_own_slot() -> None:
    base = make_class()
    sparse_backend.accelerate(base())
    sub = type("Sub", (base,), {"__getattr__": lambda self, name: ("own", name)})
    assert sub.__new__(sub).fc == ("own", "fc")  # type: ignore[comparison-overlap]


def test_before_init_the_error_is_stock() -> None:
    cls = make_class()
    empty = cls.__new__(cls)
    before = outcome(lambda: empty.fc)
    quicken_attributes([cls()])
    assert outcome(lambda: empty.fc) == before and before[0] == "error"


def test_unknown_modules_are_nobody_to_restore() -> None:
    restore_attributes([nn.Linear(1, 1), make_class()()])


def test_the_results_are_stock() -> None:
    net, x = make_class()(), torch.rand(6, 4, 3)
    stock = net(x)
    with sparse_backend.accelerated(net, gradient="exact"):
        torch.testing.assert_close(net(x), stock)
