#include "view.hpp"

#include <algorithm>
#include <stdexcept>

#include "dispatch.hpp"

namespace sparse_backend {
namespace {

void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

std::string number(int64_t value) { return std::to_string(value); }

}  // namespace

void check_layer(const Layer& layer) {
    require(layer.dtype == float32 || layer.dtype == float64,
            "dtype=" + number(layer.dtype) + " must be FLOAT32 or FLOAT64");
    require(layer.steps > 0, "steps=" + number(layer.steps) + " must be positive");
    require(layer.batch > 0, "batch=" + number(layer.batch) + " must be positive");
    require(layer.width > 0, "width=" + number(layer.width) + " must be positive");
    require(layer.width <= std::numeric_limits<int32_t>::max() - 64, "width=" + number(layer.width) + " is too large");
    require(layer.threads > 0, "threads=" + number(layer.threads) + " must be positive");
    require(!layer.in_ptr || layer.inputs > 0, "inputs=" + number(layer.inputs) + " must be positive");
    require(layer.membrane.address, "membrane=0: every neuron needs its membrane coefficient");
    require(layer.threshold.address || !layer.fires, "threshold=0: a neuron that fires needs a threshold");
    require(layer.fires || (layer.pre == 0 && layer.post == 0), "fires=False with pre=" + number(layer.pre) +
                                                                    ", post=" + number(layer.post) +
                                                                    ": without spikes there is no reset");
    require(layer.surrogate >= 0 && layer.surrogate < surrogate_kinds,
            "surrogate=" + number(layer.surrogate) + " is not a known surrogate");
    require(layer.gradient >= 0 && layer.gradient <= int(Gradient::sampled),
            "gradient=" + number(layer.gradient) + " is not a known gradient rule");
    require(layer.level >= 0, "level=" + std::to_string(layer.level) + " must not be negative");
    require(layer.carriers >= 0 && layer.carriers < 8,
            "carriers=" + number(layer.carriers) + " is not a mask of 3 bits");
    const bool known = layer.integrator >= 0 && layer.integrator <= 1 && (layer.poles == 1 || layer.poles == 2) &&
                       layer.pre >= 0 && layer.pre <= 3 && layer.post >= 0 && layer.post <= 4;
    require(known && kernels().float32.is_supported(Integrator(layer.integrator), layer.poles, Pre(layer.pre),
                                                    Post(layer.post)),
            "integrator=" + number(layer.integrator) + ", poles=" + number(layer.poles) + ", pre=" + number(layer.pre) +
                ", post=" + number(layer.post) + ": no kernel has this structure");
}

void check_input(const Layer& layer) {
    const bool events = layer.in_ptr && layer.weight_t;
    require(layer.current || events, "current=0: give a current, or in_ptr, in_idx and weight_t");
}

bool needs_resets(const Layer& layer) { return Post(layer.post) == Post::subtract || Post(layer.post) == Post::zero; }

template <class Real>
void TypedLayer<Real>::set_row(int index, const Coefficient& coefficient, Real fallback, Real padding) {
    const Real* source = address<Real>(coefficient.address);
    Real* to = row(index);
    std::fill(to, to + view.padded, padding);
    for (int64_t j = 0; j < view.width; ++j)
        to[j] = source ? source[coefficient.per_neuron ? j % view.columns : 0] : fallback;
}

template <class Real>
TypedLayer<Real>::TypedLayer(const Layer& layer, int64_t together) : view() {
    check_layer(layer);
    view.steps = layer.steps;
    view.batch = layer.batch;
    view.width = together * layer.width;
    view.padded = padded_width(view.width);
    view.inputs = layer.inputs;
    view.columns = layer.width;
    view.together = together;
    view.uniform = true;
    for (const Coefficient& c :
         {layer.membrane, layer.gain, layer.synapse, layer.leak, layer.threshold, layer.reset, layer.graded})
        view.uniform = view.uniform && !c.per_neuron;
    view.weight_stride = padded_width(layer.width);
    rows_.resize(9 * view.padded);
    set_row(0, layer.membrane, 0, 0);
    set_row(1, layer.gain, 1, 1);
    set_row(2, layer.synapse, 0, 0);
    set_row(3, layer.leak, 0, 0);
    set_row(4, layer.threshold, std::numeric_limits<Real>::infinity(), 1);
    set_row(5, layer.reset, 0, 0);
    set_row(6, layer.graded, 1, 1);
    std::fill(row(7), row(8), Real(0));
    if (layer.bias) std::copy_n(address<Real>(layer.bias), layer.width, row(7));
    // No spike can pass an infinite threshold.
    if (!layer.fires) std::fill(row(4), row(5), std::numeric_limits<Real>::infinity());
    for (int64_t j = 0; j < view.padded; ++j)
        row(8)[j] = layer.integrator == int(Integrator::decay) ? row(0)[j] : Real(1) - row(0)[j];
    view.coefficients = {row(0), row(1), row(2), row(3), row(4), row(5), row(6)};
    view.bias = layer.bias ? row(7) : nullptr;
    view.current = {address<Real>(layer.current), layer.current_stride_t, layer.current_stride_b};
    view.input = {address<int64_t>(layer.in_ptr), address<int32_t>(layer.in_idx), address<Real>(layer.in_val)};
    view.weight_t = address<Real>(layer.weight_t);
    view.m0 = address<Real>(layer.m0);
    view.i0 = address<Real>(layer.i0);
    view.cuts = address<uint8_t>(layer.cuts);
    view.integrator = Integrator(layer.integrator);
    view.poles = layer.poles;
    view.pre = Pre(layer.pre);
    view.post = Post(layer.post);
    view.surrogate = Surrogate(layer.surrogate);
    view.surrogate_p0 = layer.surrogate_p0;
    view.surrogate_p1 = layer.surrogate_p1;
    view.surrogate_window = layer.surrogate_window;
    view.gradient = layer.fires ? Gradient(layer.gradient) : Gradient::none;
    view.level = layer.level;
    view.key = uint64_t(layer.key);
    view.active_includes_spikes = layer.active_includes_spikes;
    view.want_spikes = layer.want_spikes;
    view.want_active = layer.want_active;
    view.want_resets = layer.want_resets;
    view.carriers = layer.carriers;
    view.carrier_count = __builtin_popcount(unsigned(layer.carriers));
    view.spikes = {writable<Real>(layer.spikes), layer.spikes_stride_t, layer.spikes_stride_b};
    view.membrane_out = {writable<Real>(layer.membrane_out), layer.membrane_stride_t, layer.membrane_stride_b};
    view.m_last = writable<Real>(layer.m_last);
    view.i_last = writable<Real>(layer.i_last);
    view.carrier_m_last = writable<Real>(layer.carrier_m_last);
    view.carrier_i_last = writable<Real>(layer.carrier_i_last);
}

template <class Real>
LayerView<Real> TypedLayer<Real>::tile(int64_t first, int64_t width) const {
    LayerView<Real> tile = view;
    tile.first = first;
    tile.width = width;
    tile.padded = padded_width(width);
    CoefficientRows<Real>& c = tile.coefficients;
    for (const Real** row : {&c.membrane, &c.gain, &c.synapse, &c.leak, &c.threshold, &c.reset, &c.graded, &tile.bias,
                             &tile.m0, &tile.i0, &tile.current.data, &tile.weight_t})
        if (*row) *row += first;
    for (Real** row : {&tile.spikes.data, &tile.membrane_out.data, &tile.m_last, &tile.i_last, &tile.carrier_m_last,
                       &tile.carrier_i_last})
        if (*row) *row += first;
    return tile;
}

template <class Real>
LayerView<Real> TypedLayer<Real>::with_together(int64_t elements) const {
    LayerView<Real> fewer = view;
    fewer.together = elements;
    fewer.width = elements * view.columns;
    fewer.padded = padded_width(fewer.width);
    return fewer;
}

template class TypedLayer<float>;
template class TypedLayer<double>;

}  // namespace sparse_backend
