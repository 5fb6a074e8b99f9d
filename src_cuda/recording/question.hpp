// A question to torch: a callable, or an attribute's descriptor, asked thousands of times.
#pragma once

#include "python.hpp"

namespace recording {

// Where torch answers with a C function of one argument (or none) that one is called itself: what the interpreter
// does around it takes as long as the answer.
class Question {
  public:
    const char* name;

    explicit Question(const char* name_) : name(name_) {}

    void ask_of(PyObject* function) {
        Py_INCREF(function);
        Py_XSETREF(function_, function);
        method_ = nullptr, getter_ = nullptr, self_ = nullptr;
        if (Py_TYPE(function) == &PyGetSetDescr_Type) {
            const PyGetSetDef* attribute = reinterpret_cast<PyGetSetDescrObject*>(function)->d_getset;
            getter_ = attribute->get, closure_ = attribute->closure;
        } else if (Py_TYPE(function) == &PyMethodDescr_Type) {
            const PyMethodDef* method = reinterpret_cast<PyMethodDescrObject*>(function)->d_method;
            if (method->ml_flags == METH_NOARGS) method_ = method->ml_meth;
        } else if (PyCFunction_CheckExact(function) && PyCFunction_GET_FLAGS(function) == METH_NOARGS) {
            method_ = PyCFunction_GET_FUNCTION(function), self_ = PyCFunction_GET_SELF(function);
        }
    }

    // Of the state that torch is in.
    Ref answer() const { return Ref(method_ ? method_(self_, nullptr) : PyObject_CallNoArgs(function_)); }

    // Of a tensor.
    Ref answer(PyObject* tensor) const {
        if (getter_) return Ref(getter_(tensor, closure_));
        return Ref(method_ ? method_(tensor, nullptr) : PyObject_CallOneArg(function_, tensor));
    }

  private:
    PyObject *function_ = nullptr, *self_ = nullptr;
    PyCFunction method_ = nullptr;
    getter getter_ = nullptr;
    void* closure_ = nullptr;
};

}  // namespace recording
