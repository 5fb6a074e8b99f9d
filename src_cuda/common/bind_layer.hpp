// Binding of Layer, included by both modules; local to each, so that both can be imported.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <type_traits>

#include "layer.hpp"

namespace sparse_backend {

namespace py = pybind11;

// Setters of T's fields, by name: as attributes, setting some fifty of them takes longer than a small layer's kernel.
template <class T>
PyObject* setters() {
    static PyObject* const table = PyDict_New();
    return table;
}

template <class T>
void add_setter(const char* name, void (*setter)(T&, PyObject*)) {
    const py::object address = py::reinterpret_steal<py::object>(PyLong_FromVoidPtr(reinterpret_cast<void*>(setter)));
    if (PyDict_SetItemString(setters<T>(), name, address.ptr()) < 0) throw py::error_already_set();
}

template <class Value>
void set_value(Value& target, PyObject* value) {
    if constexpr (std::is_same_v<Value, bool>) {
        if (!PyBool_Check(value)) PyErr_Format(PyExc_TypeError, "%R must be True or False", value);
        target = value == Py_True;
    } else if constexpr (std::is_floating_point_v<Value>) {
        target = PyFloat_AsDouble(value);
    } else {
        const long long number = PyLong_AsLongLong(value);
        target = static_cast<Value>(number);
        if (target != number) PyErr_Format(PyExc_OverflowError, "%R is too large", value);
    }
}

// An attribute of T, which `from_keywords` sets too.
template <auto member, class T, class... Bases>
void field(py::class_<T, Bases...>& type, const char* name) {
    type.def_readwrite(name, member);
    add_setter<T>(name, [](T& object, PyObject* value) { set_value(object.*member, value); });
}

// Builds an argument object from keywords; an unknown name raises AttributeError.
template <class T>
py::object from_keywords(const py::kwargs& fields) {
    py::object object = py::cast(T());
    T& target = object.cast<T&>();
    for (const auto& field : fields) {
        PyObject* known = PyDict_GetItemWithError(setters<T>(), field.first.ptr());
        if (known)
            reinterpret_cast<void (*)(T&, PyObject*)>(PyLong_AsVoidPtr(known))(target, field.second.ptr());
        else
            py::setattr(object, field.first, field.second);
        if (PyErr_Occurred()) throw py::error_already_set();
    }
    return object;
}

// Two attributes of T, which `from_keywords` sets too: an address, and whether there is a value for each neuron.
template <auto member, class T, class... Bases>
void coefficient(py::class_<T, Bases...>& type, const std::string& name) {
    const std::string per_neuron = name + "_per_neuron";
    add_setter<T>(name.c_str(), [](T& object, PyObject* value) { set_value((object.*member).address, value); });
    add_setter<T>(per_neuron.c_str(),
                  [](T& object, PyObject* value) { set_value((object.*member).per_neuron, value); });
    type.def_property(
        name.c_str(), [](const T& object) { return (object.*member).address; },
        [](T& object, int64_t address) { (object.*member).address = address; });
    type.def_property(
        per_neuron.c_str(), [](const T& object) { return (object.*member).per_neuron; },
        [](T& object, bool per_neuron) { (object.*member).per_neuron = per_neuron; });
}

inline py::class_<Layer> bind_layer(py::module_& m) {
    py::class_<Layer> type(m, "Layer", py::module_local(),
                           "Arguments of forward and backward; addresses are integers, 0 is absent.");
    type.def(py::init<>());
#define FIELD(name) field<&Layer::name>(type, #name)
    FIELD(dtype), FIELD(steps), FIELD(batch), FIELD(width), FIELD(inputs), FIELD(threads);
    FIELD(current), FIELD(current_stride_t), FIELD(current_stride_b);
    FIELD(in_ptr), FIELD(in_idx), FIELD(in_val), FIELD(weight_t), FIELD(bias);
    FIELD(m0), FIELD(i0), FIELD(cuts), FIELD(integrator), FIELD(poles), FIELD(pre), FIELD(post), FIELD(fires);
    FIELD(surrogate), FIELD(surrogate_p0), FIELD(surrogate_p1), FIELD(surrogate_window);
    FIELD(gradient), FIELD(level), FIELD(key), FIELD(active_includes_spikes);
    FIELD(want_spikes), FIELD(want_active), FIELD(want_resets), FIELD(carriers);
    FIELD(spikes), FIELD(spikes_stride_t), FIELD(spikes_stride_b);
    FIELD(membrane_out), FIELD(membrane_stride_t), FIELD(membrane_stride_b);
    FIELD(m_last), FIELD(i_last), FIELD(carrier_m_last), FIELD(carrier_i_last);
#undef FIELD
    coefficient<&Layer::membrane>(type, "membrane");
    coefficient<&Layer::gain>(type, "gain");
    coefficient<&Layer::synapse>(type, "synapse");
    coefficient<&Layer::leak>(type, "leak");
    coefficient<&Layer::threshold>(type, "threshold");
    coefficient<&Layer::reset>(type, "reset");
    coefficient<&Layer::graded>(type, "graded");
    return type;
}

}  // namespace sparse_backend
