// `self.fc1` of an nn.Module without a Python frame. Python looks a name up in the class and the instance, raises an
// AttributeError, drops it and calls `nn.Module.__getattr__`, which asks three dicts: half of what a loop over time
// costs. The class's slot asks the same places in the same order, and leaves all else to what it held. Python puts its
// own function back when `__getattr__` or `__getattribute__` is assigned to, here or in a base class, and gives every
// subclass its own.
#pragma once

#include "python.hpp"

namespace recording {

// quicken_attributes(class) -> whether its modules' attributes are found so from now on: not where the class, or
// whoever patched nn.Module, decides about attributes.
PyObject* quicken_attributes(PyObject*, PyObject* type);

// restore_attributes(class): as before, if it is still ours.
PyObject* restore_attributes(PyObject*, PyObject* type);

}  // namespace recording
