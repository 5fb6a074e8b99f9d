// Python module sparse_backend._recording: what recording/native.py describes.
#include "attributes.hpp"
#include "calls.hpp"
#include "modes.hpp"
#include "next_step.hpp"
#include "recorder.hpp"
#include "spares.hpp"
#include "watch.hpp"

namespace recording {
namespace {

// None, for "not the common case": Python goes through all cases, and raises what has to be raised.
PyObject* or_none(PyObject* taken) {
    if (taken) return taken;
    PyErr_Clear();
    Py_RETURN_NONE;
}

PyObject* ask_feed(PyObject*, PyObject* const* arguments, Py_ssize_t count, PyObject* keywords) {
    if (count != 2 || keywords) Py_RETURN_NONE;
    return or_none(next_feed(arguments[0], arguments[1]));
}

PyObject* ask_step(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    if (count != 3) Py_RETURN_NONE;
    return or_none(next_step(arguments[0], arguments[1], arguments[2]));
}

PyObject* ask_at_rest(PyObject*, PyObject*) { return PyBool_FromLong(at_rest()); }

// A deferred tensor to which nothing has happened has its three attributes alone; one that is detached, a view or real
// has more.
PyObject* steps_in_a_row(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    const Py_ssize_t start = count == 2 ? PyLong_AsSsize_t(arguments[1]) : -1;
    if (start < 0) return PyErr_Format(PyExc_TypeError, "steps_in_a_row(tensors, index)");
    const Ref tensors(PySequence_Fast(arguments[0], "steps_in_a_row takes a sequence"));
    if (!tensors) return nullptr;
    PyObject *source = nullptr, *slot = nullptr;
    Py_ssize_t index = start, first = 0;
    for (; index < PySequence_Fast_GET_SIZE(tensors.get()); ++index) {
        PyObject* tensor = PySequence_Fast_GET_ITEM(tensors.get(), index);
        if (!is_type(tensor, deferred.object)) break;
        const Ref attributes = attributes_of(tensor);
        if (!attributes || PyDict_GET_SIZE(attributes.get()) != fresh) break;
        PyObject* its_source = name_source.in(attributes.get());
        PyObject* its_slot = name_slot.in(attributes.get());
        PyObject* step = name_step.in(attributes.get());
        if (!its_source || !its_slot || !step) break;
        const Py_ssize_t number = PyLong_AsSsize_t(step);
        if (index == start) {
            source = its_source, slot = its_slot, first = number;
        } else if (its_source != source || its_slot != slot || number != first + (index - start)) {
            break;
        }
    }
    PyErr_Clear();
    return PyLong_FromSsize_t(index > start ? index - start : 1);
}

template <class Function>
PyCFunction method(Function* function) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"connect", connect, METH_O, "Take the recorder's classes and torch's functions, by name."},
    {"at_rest", ask_at_rest, METH_NOARGS, "at_rest()"},
    {"keep_spares", keep_spares, METH_NOARGS, "keep_spares()"},
    {"next_feed", method(ask_feed), METH_FASTCALL | METH_KEYWORDS, "next_feed(module, input)"},
    {"next_step", method(ask_step), METH_FASTCALL, "next_step(module, input, state)"},
    {"quicken_attributes", quicken_attributes, METH_O, "quicken_attributes(class)"},
    {"restore_attributes", restore_attributes, METH_O, "restore_attributes(class)"},
    {"take_feed_calls", take_feed_calls, METH_VARARGS, "take_feed_calls(class, globals)"},
    {"take_neuron_calls", take_neuron_calls, METH_VARARGS, "take_neuron_calls(class, globals, runtime, previous)"},
    {"stands_in", stands_in, METH_VARARGS, "stands_in(function, original)"},
    {"steps_in_a_row", method(steps_in_a_row), METH_FASTCALL, "steps_in_a_row(tensors, index)"},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_recording",
                          "The common call of a recorded loop.",
                          -1,
                          methods,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace
}  // namespace recording

PyMODINIT_FUNC PyInit__recording() {
    return recording::intern_names() ? PyModule_Create(&recording::definition) : nullptr;
}
