#include "step.hpp"

#include "recorder.hpp"
#include "spares.hpp"

namespace recording {
namespace {

bool nobody_holds(PyObject* wrapper, PyObject* attributes) {
    return Py_REFCNT(wrapper) == 1 && PyDict_GET_SIZE(attributes) == fresh && keeps_to_itself(attributes) &&
           !has_weak_references(wrapper);
}

Ref make(PyObject* wrappers, PyObject* stream, PyObject* step) {
    PyObject* blank = wrappers_blank.of(wrappers);
    Ref made = spare_of(blank);
    if (!made) {
        const bool linked = stream_requires_grad.of(stream) == Py_True;
        PyObject* tensor = PyTuple_GET_ITEM(blank, 0);
        PyObject* arguments[] = {linked ? tensor : deferred.object, linked ? deferred.object : tensor};
        made = Ref(PyObject_Vectorcall(linked ? link.object : wrap.object, arguments, 2, nullptr));
    }
    if (!made) return made;
    const Ref attributes = attributes_of(made.get());
    if (!attributes || PyDict_SetItem(attributes.get(), name_source.object, stream) < 0 ||
        PyDict_SetItem(attributes.get(), name_step.object, step) < 0 ||
        PyDict_SetItem(attributes.get(), name_slot.object, wrappers_slot.of(wrappers)) < 0)
        return Ref();
    return made;
}

// The deferred tensor of the next step, as Wrappers.take; `commit` makes it the newer one.
Ref next_of(PyObject* wrappers, PyObject* stream, PyObject* step) {
    PyObject* older = wrappers_older.of(wrappers);
    if (older != Py_None) {
        const Ref attributes = attributes_of(older);
        if (!attributes) return Ref();
        if (nobody_holds(older, attributes.get()))
            return PyDict_SetItem(attributes.get(), name_step.object, step) < 0 ? Ref() : Ref::borrow(older);
        if (wrappers_slot.number(wrappers)) {
            const Ref reference(PyWeakref_NewRef(older, nullptr));
            if (!reference || PyList_Append(wrappers_escaped.of(wrappers), reference.get()) < 0) return Ref();
        }
    }
    return make(wrappers, stream, step);
}

}  // namespace

bool is_latest(PyObject* tensor, PyObject* stream, Py_ssize_t slot) {
    PyObject* wrappers = stream_wrappers.of(stream);
    if (slot >= PyTuple_GET_SIZE(wrappers) || !is_type(tensor, deferred.object)) return false;
    if (wrappers_newer.of(PyTuple_GET_ITEM(wrappers, slot)) != tensor) return false;
    const Ref attributes = attributes_of(tensor);
    return attributes && (PyDict_GET_SIZE(attributes.get()) == fresh || !name_cut.in(attributes.get()));
}

bool Step::prepare() {
    PyObject* wrappers = stream_wrappers.of(stream_);
    count_ = PyTuple_GET_SIZE(wrappers);
    const Ref index = Ref::borrow(stream_count.of(stream_));
    next_ = Ref(PyLong_FromSsize_t(stream_count.number(stream_) + 1));
    if (count_ > 3 || !next_) return false;
    for (Py_ssize_t slot = 0; slot < count_; ++slot) {
        made_[slot] = next_of(PyTuple_GET_ITEM(wrappers, slot), stream_, index.get());
        if (!made_[slot]) return false;
    }
    return segment_closed.of(segment_) == Py_False;
}

void Step::commit() {
    PyObject* wrappers = stream_wrappers.of(stream_);
    Ref dropped[3];
    for (Py_ssize_t slot = 0; slot < count_; ++slot) {
        PyObject* pair = PyTuple_GET_ITEM(wrappers, slot);
        dropped[slot] = Ref(std::exchange(wrappers_older.of(pair), wrappers_newer.of(pair)));
        wrappers_newer.of(pair) = Ref::borrow(made_[slot].get()).release();
    }
    stream_count.set(stream_, std::move(next_));
}

}  // namespace recording
