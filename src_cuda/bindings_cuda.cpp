// Python module sparse_backend._cuda: device addresses, sizes and a stream in; importing it touches no device.
#include <stdexcept>
#include <string>

#include "common/bind_layer.hpp"
#include "common/spec.hpp"
#include "cuda/arguments.hpp"

using namespace sparse_backend;

namespace {

void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

void check_structure(const Layer& layer) {
    require(layer.dtype == float32 || layer.dtype == float64, "dtype must be FLOAT32 or FLOAT64");
    require(layer.steps > 0 && layer.batch > 0 && layer.width > 0, "steps, batch and width must be positive");
    require(layer.width <= 0x7FFFFFFF - lanes && layer.inputs <= 0x7FFFFFFF, "width and inputs must fit 31 bits");
    require(layer.membrane.address, "membrane=0: every neuron needs its membrane coefficient");
    require(layer.threshold.address || !layer.fires, "threshold=0: a neuron that fires needs a threshold");
    require(layer.fires || (layer.pre == 0 && layer.post == 0), "fires=False: without spikes there is no reset");
    require(layer.surrogate >= 0 && layer.surrogate < surrogate_kinds, "surrogate: not a known surrogate");
    require(layer.gradient >= 0 && layer.gradient <= int(Gradient::sampled), "gradient: not a known gradient rule");
    require(layer.carriers >= 0 && layer.carriers < 8, "carriers: must be a mask of 3 bits");
    const bool known = layer.integrator >= 0 && layer.integrator <= 1 && (layer.poles == 1 || layer.poles == 2) &&
                       layer.pre >= 0 && layer.pre <= 3 && layer.post >= 0 && layer.post <= 4;
    require(known && is_supported(layer), "integrator, poles, pre, post: no kernel has this structure");
}

void check_input(const Layer& layer) {
    require(layer.current || (layer.in_ptr && layer.weight_t && layer.inputs > 0),
            "current=0: give a current, or in_ptr, weight_t and inputs");
}

void check_forward(const DeviceLayer& layer) {
    check_structure(layer);
    check_input(layer);
    require(!layer.active_bits || (layer.active_before && layer.staged_u && layer.region > 0),
            "active_bits: needs active_before, staged_u and region");
    require(!layer.carriers || !layer.active_bits || layer.staged_carriers, "carriers: need staged_carriers");
    require(layer.steps <= 0x7FFFFFFF / lanes, "steps: too many for 32-bit positions within a word");
}

void check_reverse(const DeviceLayer& layer, const ReverseScan& r) {
    check_structure(layer);
    if (r.recompute) check_input(layer);
    require(!r.recompute || layer.checkpoints, "recompute=True: needs checkpoints");
    require(r.begin >= 0 && r.begin < r.end && r.end <= layer.steps, "begin, end: must be a range of the time steps");
    require(r.begin % block_steps == 0, "begin: must be a multiple of BLOCK_STEPS");
    require((r.begin == 0 && r.end == layer.steps) || (r.mu && (r.carry || layer.poles == 1)),
            "mu, carry: a range of the time steps needs both");
    require(!r.wanted || r.sums, "wanted: needs sums");
    require(!r.active_ptr || r.recompute || r.active_u || !r.active_idx, "active_ptr: needs active_u");
    require(!r.drawn || (r.recompute && r.active_ptr), "drawn=True: needs recompute and the active entries");
    const bool resets = layer.pre || layer.post;
    require(!resets || r.recompute || r.spike_ptr, "spike_ptr: this neuron resets, give its spikes");
    const bool own_resets = layer.post == int(Post::subtract) || layer.post == int(Post::zero);
    require(!own_resets || r.recompute || r.reset_ptr, "reset_ptr: this neuron needs its saved resets");
}

void check_products(const Products& p) {
    require(p.steps > 0 && p.batch > 0 && p.inputs > 0 && p.width > 0 && p.chunk > 0,
            "steps, batch, inputs, width and chunk must be positive");
    require(p.chunk <= 0x7FFFFFFF / p.batch, "chunk: its rows must fit 31 bits");
}

void bind_device_layer(py::module_& m) {
    py::class_<DeviceLayer, Layer> type(m, "DeviceLayer", py::module_local(), "A layer and its forward scan's output.");
    type.def(py::init<>());
#define FIELD(name) type.def_readwrite(#name, &DeviceLayer::name)
    FIELD(device), FIELD(stream), FIELD(spike_bits), FIELD(active_bits), FIELD(reset_bits), FIELD(active_before);
    FIELD(staged_u), FIELD(staged_carriers), FIELD(region), FIELD(summary), FIELD(checkpoints);
#undef FIELD
    m.def("layer", [](const py::kwargs& fields) { return from_keywords<DeviceLayer>(fields); });
}

void bind_reverse(py::module_& m) {
    py::class_<ReverseScan> type(m, "ReverseScan", py::module_local(), "A range of steps of a reverse scan.");
    type.def(py::init<>());
#define FIELD(name) type.def_readwrite(#name, &ReverseScan::name)
    FIELD(begin), FIELD(end), FIELD(active_ptr), FIELD(active_idx), FIELD(active_u), FIELD(active_carriers);
    FIELD(spike_ptr), FIELD(spike_idx), FIELD(reset_ptr), FIELD(reset_idx);
    FIELD(g_active), FIELD(g_spikes), FIELD(g_spikes_stride_t), FIELD(g_spikes_stride_b);
    FIELD(g_membrane), FIELD(g_membrane_stride_t), FIELD(g_membrane_stride_b), FIELD(g_m_last), FIELD(g_i_last);
    FIELD(mu), FIELD(carry), FIELD(d_current), FIELD(d_current_stride_t), FIELD(d_current_stride_b);
    FIELD(d_m0), FIELD(d_i0), FIELD(sums), FIELD(wanted), FIELD(recompute), FIELD(drawn);
#undef FIELD
    m.def("reverse", [](const py::kwargs& fields) { return from_keywords<ReverseScan>(fields); });
}

void bind_lists(py::module_& m) {
    py::class_<BitRows> rows(m, "BitRows", py::module_local(), "Non-zero entries as bits.");
    rows.def(py::init<>());
#define FIELD(name) rows.def_readwrite(#name, &BitRows::name)
    FIELD(device), FIELD(stream), FIELD(bits), FIELD(stride_b), FIELD(stride_t), FIELD(stride_word);
    FIELD(steps), FIELD(batch), FIELD(width), FIELD(ptr);
#undef FIELD
    py::class_<DenseInput, BitRows> input(m, "DenseInput", py::module_local(), "A dense input and its bits.");
    input.def(py::init<>());
#define FIELD(name) input.def_readwrite(#name, &DenseInput::name)
    FIELD(x), FIELD(x_stride_t), FIELD(x_stride_b), FIELD(dtype), FIELD(odd);
#undef FIELD
    py::class_<SpikeList, BitRows> spikes(m, "SpikeList", py::module_local(), "Where a list of spikes goes.");
    spikes.def(py::init<>());
#define FIELD(name) spikes.def_readwrite(#name, &SpikeList::name)
    FIELD(idx), FIELD(val), FIELD(dtype);
#undef FIELD
    coefficient<&SpikeList::graded>(spikes, "graded");
    py::class_<ActiveList, BitRows> active(m, "ActiveList", py::module_local(), "Where the active entries go.");
    active.def(py::init<>());
#define FIELD(name) active.def_readwrite(#name, &ActiveList::name)
    FIELD(idx), FIELD(u), FIELD(carriers), FIELD(before), FIELD(staged_u), FIELD(staged_carriers);
    FIELD(region), FIELD(carrier_count), FIELD(dtype);
#undef FIELD
    m.def("bit_rows", [](const py::kwargs& fields) { return from_keywords<BitRows>(fields); });
    m.def("dense_input", [](const py::kwargs& fields) { return from_keywords<DenseInput>(fields); });
    m.def("spike_list", [](const py::kwargs& fields) { return from_keywords<SpikeList>(fields); });
    m.def("active_list", [](const py::kwargs& fields) { return from_keywords<ActiveList>(fields); });
}

void bind_products(py::module_& m) {
    py::class_<Products> type(m, "Products", py::module_local(), "Products of lambda with inputs and weights.");
    type.def(py::init<>());
#define FIELD(name) type.def_readwrite(#name, &Products::name)
    FIELD(device), FIELD(stream), FIELD(dtype), FIELD(steps), FIELD(batch), FIELD(inputs), FIELD(width), FIELD(chunk);
    FIELD(in_ptr), FIELD(in_idx), FIELD(in_val), FIELD(counts), FIELD(offsets), FIELD(grouped), FIELD(grouped_val);
    FIELD(lambda), FIELD(weight_t), FIELD(d_weight_t), FIELD(low_ptr), FIELD(low_idx), FIELD(d_low);
#undef FIELD
    m.def("products", [](const py::kwargs& fields) { return from_keywords<Products>(fields); });
    py::class_<Expansion> dense(m, "Expansion", py::module_local(), "An event list and a dense tensor.");
    dense.def(py::init<>());
#define FIELD(name) dense.def_readwrite(#name, &Expansion::name)
    FIELD(device), FIELD(stream), FIELD(dtype), FIELD(steps), FIELD(batch), FIELD(width), FIELD(begin), FIELD(end);
    FIELD(ptr), FIELD(idx), FIELD(val), FIELD(dense), FIELD(stride_t), FIELD(stride_b);
#undef FIELD
    m.def("expansion", [](const py::kwargs& fields) { return from_keywords<Expansion>(fields); });
}

py::dict names(std::initializer_list<const char*> list) {
    py::dict table;
    int value = 0;
    for (const char* name : list) table[name] = value++;
    return table;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "CUDA kernels of sparse_backend; device addresses, sizes and a stream handle in.";
    m.attr("FLOAT32") = int(float32);
    m.attr("FLOAT64") = int(float64);
    m.attr("UINT8") = int(uint8);
    m.attr("BOOL") = int(boolean);
    m.attr("FLOAT16") = int(float16);
    m.attr("BFLOAT16") = int(bfloat16);
    m.attr("BLOCK_STEPS") = block_steps;
    m.attr("LANES") = lanes;
    m.attr("SUMS") = names({"current", "membrane", "gain", "synapse", "leak", "threshold", "reset", "graded"});
    m.attr("SURROGATES") = names({"zero", "atan", "fast_sigmoid", "sigmoid", "triangular", "straight_through", "sfs",
                                  "triangle", "tanh", "circ", "heavi_erfc"});
    m.attr("GRADIENTS") = names({"none", "exact", "window", "sampled"});
    m.attr("ARCHITECTURES") = SPARSE_BACKEND_ARCHITECTURES;
    bind_layer(m);
    bind_device_layer(m);
    bind_reverse(m);
    bind_lists(m);
    bind_products(m);
    const py::call_guard<py::gil_scoped_release> released;
    m.def(
        "forward_scan",
        [](const DeviceLayer& layer) {
            check_forward(layer);
            forward_scan(layer);
        },
        py::arg("layer"), released);
    m.def(
        "reverse_scan",
        [](const DeviceLayer& layer, const ReverseScan& reverse) {
            check_reverse(layer, reverse);
            reverse_scan(layer, reverse);
        },
        py::arg("layer"), py::arg("reverse"), released);
    m.def("mark_entries", &mark_entries, py::arg("input"), released);
    m.def("count_rows", &count_rows, py::arg("rows"), released);
    m.def("write_entries", &write_entries, py::arg("input"), py::arg("idx"), py::arg("val"), py::arg("val_dtype"),
          released);
    m.def("write_spikes", &write_spikes, py::arg("list"), released);
    m.def("write_active", &write_active, py::arg("list"), released);
    m.def(
        "count_inputs",
        [](const Products& p) {
            check_products(p);
            count_inputs(p);
        },
        py::arg("products"), released);
    m.def("group_inputs", &group_inputs, py::arg("products"), released);
    m.def("weight_gradient", &weight_gradient, py::arg("products"), py::arg("chunk"), released);
    m.def("input_gradient", &input_gradient, py::arg("products"), py::arg("begin"), py::arg("end"), released);
    m.def("scatter", &scatter, py::arg("expansion"), released);
    m.def("gather", &gather, py::arg("expansion"), released);
}
