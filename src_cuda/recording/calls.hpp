// Calls of an accelerated class without a Python frame: `tp_call` itself asks for the ordinary step, and leaves all
// else to the class's `__call__`, which does the same in Python. Python puts its own function back into the slot when
// `__call__` is assigned to, and gives every subclass its own; a compiler that traces a call looks at `__call__`
// alone. Whoever replaced `next_feed` or `next_step` where `__call__` finds them is obeyed.
#pragma once

#include "python.hpp"

namespace recording {

// take_feed_calls(class, globals of its `__call__`)
PyObject* take_feed_calls(PyObject*, PyObject* arguments);

// take_neuron_calls(class, globals, name of the runtime in a module's attributes, its `previous` after such a step)
PyObject* take_neuron_calls(PyObject*, PyObject* arguments);

}  // namespace recording
