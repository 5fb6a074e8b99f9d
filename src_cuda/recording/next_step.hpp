// The common call of a recorded loop, "this module's next step".
//
// What record.py does in Python, condition by condition, for the calls that a loop consists of after its first steps.
// Whatever is not as expected gives null, with or without a Python error, and Python decides. The recorder's objects
// stay ordinary Python objects: their slots are read where they lie. No headers of torch, no state of its own.
//
// Other threads execute a segment under its lock, which they announce by `closed`. They cannot run while C++ holds the
// GIL, so everything that may give it up (allocation, calls into torch) comes first; then `closed` is read and the
// step is taken up in one piece.
#pragma once

#include "python.hpp"

namespace recording {

// The output of a Linear's next step.
PyObject* next_feed(PyObject* module, PyObject* input);

// (output, new state) of a neuron's; `state` is a tensor, or a tuple of them.
PyObject* next_step(PyObject* module, PyObject* input, PyObject* state);

}  // namespace recording
