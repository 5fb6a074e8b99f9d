// Whether a module is what it was when its stream began, and nothing else disturbs its call.
#pragma once

#include "python.hpp"

namespace recording {

// What holds for every ordinary call: plain, unhooked, nothing changed, under the modes of the recording.
bool undisturbed(PyObject* module, PyObject* stream, PyObject* segment);

// Whether torch says that the tensor's memory lies at this place.
bool lies_at(PyObject* tensor, PyObject* place);

}  // namespace recording
