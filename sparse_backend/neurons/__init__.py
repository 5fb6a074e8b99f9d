"""Neurons as data: the parametrized step, its coefficients and its surrogate derivative."""

from . import surrogates
from .spec import Coefficients, Neuron, NeuronSpec, decode
from .surrogates import Surrogate

__all__ = ["Coefficients", "Neuron", "NeuronSpec", "Surrogate", "decode", "surrogates"]
