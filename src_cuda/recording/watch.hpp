// Whether a module is what it was when its stream began, and nothing else disturbs its call.
#pragma once

#include "python.hpp"

namespace recording {

// What holds for every ordinary call: plain, unhooked, nothing changed, under the modes of the recording.
bool undisturbed(PyObject* module, PyObject* stream, PyObject* segment);

// stands_in(function, original): from now on a function in the place of nn.Module.__call__ that passes the calls of
// accelerated modules on to `original`, and does nothing else to them. Counts only where that is torch's own.
PyObject* stands_in(PyObject*, PyObject* arguments);

// Whether torch says that the tensor's memory lies at this place.
bool lies_at(PyObject* tensor, PyObject* place);

}  // namespace recording
