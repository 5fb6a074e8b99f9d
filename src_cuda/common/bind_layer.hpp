// Binding of Layer, included by both modules; local to each, so that both can be imported.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "layer.hpp"

namespace sparse_backend {

namespace py = pybind11;

// Builds an argument object from keywords; an unknown name raises AttributeError.
template <class T>
py::object from_keywords(const py::kwargs& fields) {
    py::object object = py::cast(T());
    for (const auto& field : fields) py::setattr(object, field.first, field.second);
    return object;
}

template <auto member, class T, class... Bases>
void coefficient(py::class_<T, Bases...>& type, const std::string& name) {
    type.def_property(
        name.c_str(), [](const T& object) { return (object.*member).address; },
        [](T& object, int64_t address) { (object.*member).address = address; });
    type.def_property((name + "_per_neuron").c_str(), [](const T& object) { return (object.*member).per_neuron; },
                      [](T& object, bool per_neuron) { (object.*member).per_neuron = per_neuron; });
}

inline py::class_<Layer> bind_layer(py::module_& m) {
    py::class_<Layer> type(m, "Layer", py::module_local(),
                           "Arguments of forward and backward; addresses are integers, 0 is absent.");
    type.def(py::init<>());
#define FIELD(name) type.def_readwrite(#name, &Layer::name)
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
