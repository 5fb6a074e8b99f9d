"""Other ways to train a network of the same shape, for `--peers`.

Each module has `build(row, stock, gradient)`, which returns a network with stock's weights or raises
`UnavailableError`. "compiled stock" and "fused dense" are the same network as stock, and are checked as the
accelerated one is; norse and SpikingJelly have neurons of their own, so only their shapes are alike.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass

from ..network import Net
from ..rows import Row
from ..timing import Trainable
from .unavailable import UnavailableError

__all__ = ["PEERS", "Peer", "UnavailableError"]


@dataclass(frozen=True)
class Peer:
    """module: in this folder.  same_network: spikes and gradients must be stock's.

    devices: that it runs on.
    """

    module: str
    same_network: bool
    note: str
    devices: tuple[str, ...] = ("cpu", "cuda")

    def build(self, row: Row, stock: Net, gradient: str) -> Trainable:
        """A network with the weights of stock, on its device. Raises: UnavailableError."""
        device = next(stock.parameters()).device
        if device.type not in self.devices:
            raise UnavailableError(f"runs on {' and '.join(self.devices)} only")
        # torch.compile and SpikingJelly both bring up that there is no Triton, which on a CPU is no news.
        logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
        try:
            module = importlib.import_module(f".{self.module}", __package__)
        except ImportError as error:
            raise UnavailableError(str(error)) from error
        net: Trainable = module.build(row, stock, gradient).to(device)
        return net


PEERS = {
    "compiled stock": Peer("compiled_stock", True, "torch.compile of one step of the stock loop"),
    "fused dense": Peer(
        "fused_dense", True, "matrix products over all steps, one native scan per layer", ("cpu",)
    ),
    "norse": Peer("norse_loop", False, "LIF neurons; same shape and weights, other dynamics"),
    "norse compiled": Peer("norse_compiled", False, "torch.compile of one step of LIF cells; same shape"),
    "spikingjelly": Peer("spikingjelly_multistep", False, "LIFNode, multi-step; soft reset at once"),
}
