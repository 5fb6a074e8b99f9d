// Deferred tensors that the script has let go of, kept for later steps and later loops.
//
// To make one takes torch more than a microsecond, and a script that keeps its outputs takes a new one at every step.
// So where the last reference to one goes, to which nothing has happened, its finalizer puts it aside (PEP 442). For
// Python it is gone: it has no weak references, the collector does not see it, and what is handed out later is the next
// object at the address of one that is gone.
#pragma once

#include "python.hpp"

namespace recording {

// From now on those of the class `Deferred` are put aside; a `__del__` given to the class ends it.
PyObject* keep_spares(PyObject*, PyObject*);

// One over this blank that was put aside, its attributes those of another step; null where there is none.
Ref spare_of(PyObject* blank);

}  // namespace recording
