#include "spares.hpp"

#include <cstdint>

#include "recorder.hpp"

namespace recording {
namespace {

constexpr Py_ssize_t most_spares = 1024;  // of a kind, about a kilobyte each; of kinds there are 32 at most

PyObject* spares_of(PyObject* blank) { return PyTuple_GET_ITEM(blank, 1); }

// Where the object is put aside; null where it has to go. Whatever became of it, its attributes tell.
PyObject* place_for(PyObject* object, PyObject* attributes) {
    if (has_weak_references(object) || !attributes || PyDict_GET_SIZE(attributes) != fresh) return nullptr;
    if (!keeps_to_itself(attributes)) return nullptr;
    PyObject* source = name_source.in(attributes);
    PyObject* slot = name_slot.in(attributes);
    if (!source || source == Py_None || !slot) return nullptr;
    PyObject* spares = spares_of(PyTuple_GET_ITEM(stream_blanks.of(source), PyLong_AsSsize_t(slot)));
    return PyList_GET_SIZE(spares) < most_spares ? spares : nullptr;
}

// tp_finalize. The collector calls it, too, for what it found dead and holds itself: that is left to it.
void put_aside(PyObject* object) {
    if (Py_REFCNT(object) != 1) return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    Ref source;  // goes last: a stream may hold a whole sequence, and its end run any code
    const Ref attributes = attributes_of(object);
    if (PyObject* spares = place_for(object, attributes.get())) {
        source = Ref::borrow(name_source.in(attributes.get()));
        if (PyDict_SetItem(attributes.get(), name_source.object, Py_None) == 0 && PyList_Append(spares, object) == 0)
            PyObject_GC_UnTrack(object);
    }
    source = Ref();
    // The stream's end was that of the list: the object goes after all, as one that the collector knows.
    if (Py_REFCNT(object) == 1 && !PyObject_GC_IsTracked(object)) PyObject_GC_Track(object);
    PyErr_Restore(type, value, traceback);
}

// Python finalizes an object once, and notes that in the lowest bit of the word before it.
bool finalize_again(PyObject* object) {
    if (PyObject_GC_IsFinalized(object)) reinterpret_cast<std::uintptr_t*>(object)[-1] &= ~std::uintptr_t{1};
    return !PyObject_GC_IsFinalized(object);
}

}  // namespace

PyObject* keep_spares(PyObject*, PyObject*) {
// What `finalize_again` knows. Debug builds want to see no object untracked here.
#if PY_VERSION_HEX < 0x030F0000 && !defined(Py_DEBUG)
    reinterpret_cast<PyTypeObject*>(deferred.object)->tp_finalize = put_aside;
#endif
    Py_RETURN_NONE;
}

Ref spare_of(PyObject* blank) {
    PyObject* spares = spares_of(blank);
    const Py_ssize_t last = PyList_GET_SIZE(spares) - 1;
    if (last < 0) return Ref();
    Ref spare = Ref::borrow(PyList_GET_ITEM(spares, last));
    if (PyList_SetSlice(spares, last, last + 1, nullptr) < 0 || !finalize_again(spare.get())) return Ref();
    PyObject_GC_Track(spare.get());
    return spare;
}

}  // namespace recording
