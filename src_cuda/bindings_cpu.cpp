// Python module sparse_backend._cpu: addresses and sizes in, nothing of torch inside.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/bind_layer.hpp"
#include "cpu/convolution.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/growing_events.hpp"
#include "cpu/layer.hpp"
#include "cpu/memory.hpp"
#include "cpu/view.hpp"

namespace py = pybind11;
using namespace sparse_backend;

namespace {

void bind_gradients(py::module_& m) {
    py::class_<Gradients> type(m, "Gradients", "What reaches a layer's outputs, and where its gradients go.");
    type.def(py::init<>());
#define FIELD(name) field<&Gradients::name>(type, #name)
    FIELD(active_ptr), FIELD(active_idx), FIELD(active_u), FIELD(active_carriers);
    FIELD(spike_ptr), FIELD(spike_idx), FIELD(reset_ptr), FIELD(reset_idx);
    FIELD(g_active), FIELD(g_spikes), FIELD(g_spikes_stride_t), FIELD(g_spikes_stride_b);
    FIELD(g_membrane), FIELD(g_membrane_stride_t), FIELD(g_membrane_stride_b), FIELD(g_m_last), FIELD(g_i_last);
    FIELD(low_ptr), FIELD(low_idx), FIELD(d_low), FIELD(d_weight), FIELD(d_bias);
    FIELD(d_current), FIELD(d_current_stride_t), FIELD(d_current_stride_b), FIELD(d_current_sum);
    FIELD(d_membrane), FIELD(d_gain), FIELD(d_synapse), FIELD(d_leak), FIELD(d_threshold), FIELD(d_reset);
    FIELD(weight), FIELD(d_input), FIELD(form), FIELD(x), FIELD(x_stride_t), FIELD(x_stride_b);
    FIELD(d_graded), FIELD(d_m0), FIELD(d_i0);
#undef FIELD
    m.def("gradients", [](const py::kwargs& fields) { return from_keywords<Gradients>(fields); });
}

// The memory of a buffer, as an object of Python's.
template <class T>
py::object take(Buffer<T>& buffer) {
    return py::cast(buffer.take());
}

void bind_results(py::module_& m) {
    py::class_<CollectedEvents>(m, "CollectedEvents", "Events of rows (b, t), in the order of the format.")
        .def_property_readonly("count", &CollectedEvents::count)
        .def_property_readonly("valued", &CollectedEvents::valued, "Whether there are values; else they are ones.")
        .def("take_ptr", [](CollectedEvents& list) { return take(list.ptr); })
        .def("take_idx", [](CollectedEvents& list) { return take(list.idx); })
        .def("take_values", [](CollectedEvents& list) { return take(list.values); })
        .def("take_extras", [](CollectedEvents& list) { return take(list.extras); });
    const py::call_guard<py::gil_scoped_release> released;
    py::class_<GrowingEvents>(m, "GrowingEvents", "Events of an input that is shown step by step.")
        .def(py::init<int64_t, int64_t, int, int64_t>(), py::arg("batch"), py::arg("inputs"), py::arg("dtype"),
             py::arg("threads") = 1)
        .def("add", &GrowingEvents::add, py::arg("t"), py::arg("x"), py::arg("stride_b"), py::arg("threads") = 1,
             released)
        .def("write_step", &GrowingEvents::write_step, py::arg("t"), py::arg("out"), released)
        .def("finish", &GrowingEvents::finish, py::arg("steps"), py::arg("threads") = 1, released);
    py::class_<ForwardResult>(m, "Forward", "The lists that a forward scan leaves.")
        .def_readonly("spikes", &ForwardResult::spikes)
        .def_readonly("active", &ForwardResult::active)
        .def_readonly("resets", &ForwardResult::resets)
        .def("write_spike_values", &ForwardResult::write_spike_values, py::arg("val"), released);
}

void bind_convolution(py::module_& m) {
    py::class_<Convolution> type(m, "Convolution", "A convolution of events, with or without max pooling.");
    type.def(py::init<>());
#define FIELD(name) type.def_readwrite(#name, &Convolution::name)
    FIELD(dtype), FIELD(steps), FIELD(batch), FIELD(threads);
    FIELD(in_channels), FIELD(in_height), FIELD(in_width), FIELD(channels), FIELD(kernel_height), FIELD(kernel_width);
    FIELD(stride_y), FIELD(stride_x), FIELD(padding_y), FIELD(padding_x), FIELD(dilation_y), FIELD(dilation_x);
    FIELD(pool_height), FIELD(pool_width), FIELD(pool_stride_y), FIELD(pool_stride_x);
    FIELD(in_ptr), FIELD(in_idx), FIELD(in_val), FIELD(weight_t), FIELD(bias), FIELD(winner);
#undef FIELD
    py::class_<ConvolutionGradients> gradients(m, "ConvolutionGradients", "What reaches it, and where gradients go.");
    gradients.def(py::init<>());
#define FIELD(name) gradients.def_readwrite(#name, &ConvolutionGradients::name)
    FIELD(g), FIELD(g_stride_t), FIELD(g_stride_b), FIELD(low_ptr), FIELD(low_idx), FIELD(d_low);
    FIELD(d_weight_t), FIELD(d_bias), FIELD(kernel), FIELD(d_input);
#undef FIELD
    const py::call_guard<py::gil_scoped_release> released;
    m.def("convolution", [](const py::kwargs& fields) { return from_keywords<Convolution>(fields); });
    m.def("convolution_gradients",
          [](const py::kwargs& fields) { return from_keywords<ConvolutionGradients>(fields); });
    m.def("convolve", &run_convolution, py::arg("convolution"), py::arg("out"), py::arg("stride_t"),
          py::arg("stride_b"), released);
    m.def("convolve_backward", &run_convolution_backward, py::arg("convolution"), py::arg("gradients"), released);
}

void bind_memory(py::module_& m) {
    py::class_<Block>(m, "Block", py::buffer_protocol(), "Uninitialised bytes from the pool; they go back with it.")
        .def(py::init<size_t>(), py::arg("bytes"))
        .def_buffer([](Block& block) { return py::buffer_info(static_cast<uint8_t*>(block.data()), block.size()); });
    m.def(
        "prefer_huge_pages",
        [](int64_t data, int64_t bytes) { prefer_huge_pages(writable<char>(data), size_t(bytes)); }, py::arg("data"),
        py::arg("bytes"), "Before memory that was just allocated is written to.");
    m.def("keep_freed_memory", &keep_freed_memory, py::arg("mapped"), py::arg("kept"),
          "Sets the C library's allocator; False where that is not glibc's.");
    m.def("pooled_memory", &pooled_memory, "Bytes kept for later calls.");
    m.def("limit_pooled_memory", &limit_pooled_memory, py::arg("bytes"));
    m.def("drop_pooled_memory", &drop_pooled_memory);
}

py::dict names(std::initializer_list<const char*> list) {
    py::dict table;
    int value = 0;
    for (const char* name : list) table[name] = value++;
    return table;
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "CPU kernels of sparse_backend; sizes and addresses in, no torch memory allocated.";
    m.attr("FLOAT32") = int(float32);
    m.attr("FLOAT64") = int(float64);
    m.attr("UINT8") = int(uint8);
    m.attr("BOOL") = int(boolean);
    m.attr("INTEGRATORS") = names({"decay", "euler"});
    m.attr("PRES") = names({"none", "subtract", "cut_leak", "wipe"});
    m.attr("POSTS") = names({"none", "subtract", "zero", "value", "subtract_all"});
    m.attr("SURROGATES") = names({"zero", "atan", "fast_sigmoid", "sigmoid", "triangular", "straight_through", "sfs",
                                  "triangle", "tanh", "circ", "heavi_erfc"});
    m.attr("GRADIENTS") = names({"none", "exact", "window", "sampled"});
    m.attr("MEMBRANE") = int(carrier_membrane);
    m.attr("GAIN") = int(carrier_gain);
    m.attr("SYNAPSE") = int(carrier_synapse);
    const std::string warning = dispatch_warning();
    if (!warning.empty() && PyErr_WarnEx(PyExc_RuntimeWarning, warning.c_str(), 1)) throw py::error_already_set();
    m.def("isa", &current_isa);
    m.def("isas", &available_isas);
    m.def("set_isa", &force_isa, py::arg("name"));
    m.def("padded_width", &padded_width, py::arg("width"));
    bind_layer(m);
    m.def("layer", [](const py::kwargs& fields) { return from_keywords<Layer>(fields); });
    bind_gradients(m);
    bind_results(m);
    bind_memory(m);
    bind_convolution(m);
    const py::call_guard<py::gil_scoped_release> released;
    m.def("needs_resets", &needs_resets, py::arg("layer"));
    m.def("forward", &run_forward, py::arg("layer"), released);
    m.def(
        "backward", [](const Layer& layer, const Gradients& g) { run_backward(layer, g, false); }, py::arg("layer"),
        py::arg("gradients"), released);
    m.def(
        "backward_dense", [](const Layer& layer, const Gradients& g) { run_backward(layer, g, true); },
        py::arg("layer"), py::arg("gradients"), released);
    m.def("compress", &run_compress, py::arg("x"), py::arg("steps"), py::arg("batch"), py::arg("inputs"),
          py::arg("stride_t"), py::arg("stride_b"), py::arg("dtype"), py::arg("limit") = 1.0, py::arg("threads") = 1,
          released);
    m.def("transpose_weight", &run_transpose, py::arg("src"), py::arg("dst"), py::arg("width"), py::arg("inputs"),
          py::arg("src_stride"), py::arg("dtype"), py::arg("threads") = 1, released);
    m.def("multiply", &run_multiply, py::arg("a"), py::arg("a_stride"), py::arg("rows"), py::arg("b"), py::arg("inner"),
          py::arg("columns"), py::arg("c"), py::arg("dtype"), py::arg("threads") = 1, released);
    m.def(
        "linear",
        [](int64_t x, int64_t x_stride, int64_t rows, int64_t weight, int64_t inputs, int64_t width, int64_t bias,
           int64_t out, int64_t block, int dtype, int64_t threads) {
            run_linear({x, x_stride, rows, weight, inputs, width, bias, out}, block, dtype, threads);
        },
        py::arg("x"), py::arg("x_stride"), py::arg("rows"), py::arg("weight"), py::arg("inputs"), py::arg("width"),
        py::arg("bias"), py::arg("out"), py::arg("block"), py::arg("dtype"), py::arg("threads") = 1, released);
    m.def("scatter", &run_scatter, py::arg("ptr"), py::arg("idx"), py::arg("val"), py::arg("steps"), py::arg("batch"),
          py::arg("width"), py::arg("out"), py::arg("stride_t"), py::arg("stride_b"), py::arg("dtype"),
          py::arg("threads") = 1, released);
    m.def("gather", &run_gather, py::arg("ptr"), py::arg("idx"), py::arg("steps"), py::arg("batch"), py::arg("src"),
          py::arg("stride_t"), py::arg("stride_b"), py::arg("out"), py::arg("dtype"), py::arg("threads") = 1, released);
}
