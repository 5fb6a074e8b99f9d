#include "calls.hpp"

#include "next_step.hpp"
#include "recorder.hpp"

namespace recording {
namespace {

struct Direct {
    ternaryfunc call = nullptr;  // what the class's slot held
    PyObject* names = nullptr;   // the globals of `__call__`
    PyObject* asked = nullptr;   // the function of this module that it asks ...
    Name name{};                 // ... by this name

    bool stands() { return name.in(names) == asked; }
};

Direct direct_feed, direct_neuron;
Name runtime_name{};  // of a neuron's runtime ...
PyObject* recorded;   // ... and what its `previous` becomes

bool without(PyObject* keywords) { return !keywords || !PyDict_GET_SIZE(keywords); }

PyObject* call_feed(PyObject* self, PyObject* arguments, PyObject* keywords) {
    if (PyTuple_GET_SIZE(arguments) == 1 && without(keywords) && direct_feed.stands()) {
        if (PyObject* taken = next_feed(self, PyTuple_GET_ITEM(arguments, 0))) return taken;
        PyErr_Clear();
    }
    return direct_feed.call(self, arguments, keywords);
}

// A neuron whose state is its buffer `mem` too, and whose options say what it takes and returns. Null without an error
// where the step is no ordinary one.
PyObject* ordinary_step(PyObject* self, PyObject* arguments) {
    const Ref attributes = attributes_of(self);
    if (!attributes) return PyErr_Clear(), nullptr;
    PyObject* hidden = name_init_hidden.in(attributes.get());
    PyObject* buffers = name_buffers.in(attributes.get());
    PyObject* runtime = runtime_name.in(attributes.get());
    if ((hidden != Py_True && hidden != Py_False) || !buffers || !PyDict_Check(buffers) || !runtime) return nullptr;
    const bool keeps = hidden == Py_True;
    if (PyTuple_GET_SIZE(arguments) != 2 - keeps) return nullptr;
    PyObject* output = keeps ? name_output.in(attributes.get()) : Py_True;
    if (output != Py_True && output != Py_False) return nullptr;
    PyObject* state = keeps ? name_mem.in(buffers) : PyTuple_GET_ITEM(arguments, 1);
    if (!state || PyTuple_Check(state)) return nullptr;
    const Ref held_buffers = Ref::borrow(buffers), held_runtime = Ref::borrow(runtime), held_state = Ref::borrow(state);
    Ref answer(next_step(self, PyTuple_GET_ITEM(arguments, 0), state));
    if (!answer) return PyErr_Clear(), nullptr;
    // The step is recorded: from here on nothing but a lack of memory can fail, and that is an error.
    if (PyDict_SetItem(buffers, name_mem.object, PyTuple_GET_ITEM(answer.get(), 1)) < 0) return nullptr;
    const Ref known = attributes_of(runtime);
    if (!known ||
        (name_previous.in(known.get()) != recorded && PyDict_SetItem(known.get(), name_previous.object, recorded) < 0))
        return nullptr;
    if (output == Py_False) return Ref::borrow(PyTuple_GET_ITEM(answer.get(), 0)).release();
    return answer.release();
}

PyObject* call_neuron(PyObject* self, PyObject* arguments, PyObject* keywords) {
    if (without(keywords) && direct_neuron.stands()) {
        PyObject* taken = ordinary_step(self, arguments);
        if (taken || PyErr_Occurred()) return taken;
    }
    return direct_neuron.call(self, arguments, keywords);
}

bool take_calls(PyTypeObject* type, PyObject* names, const char* name, Direct& direct, ternaryfunc call) {
    if (!(type->tp_flags & Py_TPFLAGS_HEAPTYPE) || !PyDict_Check(names)) {
        PyErr_SetString(PyExc_TypeError, "a class made in Python and its module's globals are needed");
        return false;
    }
    Ref found(PyUnicode_InternFromString(name));
    PyObject* asked = found ? PyDict_GetItemWithError(names, found.get()) : nullptr;
    if (!asked || !PyCFunction_Check(asked)) return true;  // replaced already
    if (direct.names && direct.names != names) {
        PyErr_SetString(PyExc_ValueError, "the classes must share their `__call__`");
        return false;
    }
    if (!direct.names) {
        direct.call = type->tp_call;
        direct.names = Ref::borrow(names).release();
        direct.asked = Ref::borrow(asked).release();
        direct.name.object = found.release();
    }
    type->tp_call = call;
    PyType_Modified(type);
    return true;
}

}  // namespace

PyObject* take_feed_calls(PyObject*, PyObject* arguments) {
    PyObject *type, *names;
    if (!PyArg_ParseTuple(arguments, "O!O", &PyType_Type, &type, &names)) return nullptr;
    if (!take_calls(reinterpret_cast<PyTypeObject*>(type), names, "next_feed", direct_feed, call_feed)) return nullptr;
    Py_RETURN_NONE;
}

PyObject* take_neuron_calls(PyObject*, PyObject* arguments) {
    PyObject *type, *names, *name, *previous;
    if (!PyArg_ParseTuple(arguments, "O!OOO", &PyType_Type, &type, &names, &name, &previous)) return nullptr;
    Py_INCREF(name);
    Py_XSETREF(runtime_name.object, name);
    Py_INCREF(previous);
    Py_XSETREF(recorded, previous);
    if (!take_calls(reinterpret_cast<PyTypeObject*>(type), names, "next_step", direct_neuron, call_neuron))
        return nullptr;
    Py_RETURN_NONE;
}

}  // namespace recording
