#include "attributes.hpp"

#include "recorder.hpp"

namespace recording {
namespace {

getattrofunc usual;  // the slot of every class with a `__getattr__` written in Python

#if PY_VERSION_HEX < 0x030F0000  // where `_PyType_Lookup` is known to be

PyObject* get(PyObject* self, PyObject* name) {
    if (!_PyType_Lookup(Py_TYPE(self), name)) {
        const Ref attributes = attributes_of(self);
        if (attributes && !PyDict_GetItemWithError(attributes.get(), name))
            for (Name* part : {&name_parameters, &name_buffers, &name_modules}) {
                PyObject* held = part->in(attributes.get());
                if (!held || !PyDict_CheckExact(held)) break;
                if (PyObject* found = PyDict_GetItemWithError(held, name)) return Ref::borrow(found).release();
            }
    }
    PyErr_Clear();
    return usual(self, name);
}

bool is_usual(PyTypeObject* type) {
    PyTypeObject* module = reinterpret_cast<PyTypeObject*>(module_class.object);
    return (type->tp_flags & Py_TPFLAGS_HEAPTYPE) && PyType_IsSubtype(type, module) &&
           type->tp_getattro == module->tp_getattro &&
           _PyType_Lookup(type, name_getattr.object) == module_getattr.object &&
           _PyType_Lookup(type, name_getattribute.object) ==
               _PyType_Lookup(&PyBaseObject_Type, name_getattribute.object);
}

#else

PyObject* get(PyObject* self, PyObject* name) { return usual(self, name); }
bool is_usual(PyTypeObject*) { return false; }

#endif

bool is_class(PyObject* type) {
    if (PyType_Check(type)) return true;
    PyErr_SetString(PyExc_TypeError, "a class is needed");
    return false;
}

}  // namespace

PyObject* quicken_attributes(PyObject*, PyObject* object) {
    if (!is_class(object)) return nullptr;
    PyTypeObject* type = reinterpret_cast<PyTypeObject*>(object);
    if (type->tp_getattro == get) Py_RETURN_TRUE;
    if (!is_usual(type)) Py_RETURN_FALSE;
    usual = type->tp_getattro;
    type->tp_getattro = get;
    PyType_Modified(type);
    Py_RETURN_TRUE;
}

PyObject* restore_attributes(PyObject*, PyObject* object) {
    if (!is_class(object)) return nullptr;
    PyTypeObject* type = reinterpret_cast<PyTypeObject*>(object);
    if (type->tp_getattro == get) {
        type->tp_getattro = usual;
        PyType_Modified(type);
    }
    Py_RETURN_NONE;
}

}  // namespace recording
