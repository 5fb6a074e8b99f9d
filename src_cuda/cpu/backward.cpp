// Driver of the reverse scans: a fixed number of slots, each a contiguous range of the batch with its own sums, added
// up in slot order; wide layers are cut into tiles of neurons besides. Both depend on sizes only, so results do not
// depend on threads.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "dispatch.hpp"
#include "input_gradient.hpp"
#include "scratch.hpp"

namespace sparse_backend {
namespace {

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

// The index of an empty list may have no address: an empty tensor has none.
bool is_list(const Layer& layer, int64_t ptr, int64_t idx) {
    return ptr && (idx || address<int64_t>(ptr)[layer.batch * layer.steps] == 0);
}

void check_gradients(const Layer& layer, const Gradients& g, bool dense) {
    const bool trace = g.form == weight_trace;
    require(g.form >= weight_auto && g.form <= weight_trace, "form: must be 0 (auto), 1 (spike) or 2 (trace)");
    require(!trace || !(layer.membrane.per_neuron || layer.gain.per_neuron || layer.synapse.per_neuron),
            "form=2: the trace form needs scalar membrane, gain and synapse");
    require(!g.x || (trace && !dense), "x: only the trace form of the sparse scan reads a dense input");
    require(!g.x || layer.inputs > 0, "inputs: must be positive");
    require(!g.d_weight || layer.in_ptr || g.x,
            "d_weight: needs the input as events; with a dense input take d_current and multiply outside");
    require(!g.d_low || (is_list(layer, g.low_ptr, g.low_idx) && layer.weight_t),
            "d_low: needs low_ptr, low_idx and weight_t");
    require(!g.d_input || (g.weight && layer.inputs > 0), "d_input: needs weight and inputs");
    require(!g.d_input || !g.d_current || g.d_current_stride_b == layer.steps * g.d_current_stride_t,
            "d_current: must be batch-major beside d_input");
    require(!g.g_active || is_list(layer, g.active_ptr, g.active_idx), "g_active: needs active_ptr and active_idx");
    if (dense) return;
    require(!g.active_ptr || (is_list(layer, g.active_ptr, g.active_idx) && is_list(layer, g.active_ptr, g.active_u)),
            "active_ptr: needs active_idx and active_u");
    require(!g.g_spikes || g.active_ptr || layer.gradient == int(Gradient::none),
            "g_spikes: needs the active entries (active_ptr) in the sparse scan");
    const bool resets = layer.pre || layer.post;
    require(!resets || is_list(layer, g.spike_ptr, g.spike_idx), "spike_ptr: this neuron resets, give its spikes");
    require(!needs_resets(layer) || is_list(layer, g.reset_ptr, g.reset_idx),
            "reset_ptr: this neuron needs its saved resets");
    const int wanted =
        (g.d_membrane ? carrier_membrane : 0) | (g.d_gain ? carrier_gain : 0) | (g.d_synapse ? carrier_synapse : 0);
    if (!wanted) return;
    require(!(wanted & ~layer.carriers), "d_membrane, d_gain, d_synapse: their bits must be set in layer.carriers");
    require(!g.g_membrane, "d_membrane, d_gain, d_synapse: not available with g_membrane; use backward_dense");
    require(!g.active_ptr || is_list(layer, g.active_ptr, g.active_carriers),
            "d_membrane, d_gain, d_synapse: need active_carriers");
    require(!g.g_m_last || layer.carrier_m_last, "g_m_last: needs layer.carrier_m_last with learnable coefficients");
    require(!g.g_i_last || layer.poles == 1 || layer.carrier_i_last,
            "g_i_last: needs layer.carrier_i_last with learnable coefficients");
}

template <class Real>
GradientView<Real> gradient_view(const Gradients& g) {
    GradientView<Real> view = {};
    view.active = {address<int64_t>(g.active_ptr), address<int32_t>(g.active_idx), nullptr};
    view.active_u = address<Real>(g.active_u);
    view.active_carriers = address<Real>(g.active_carriers);
    view.spikes = {address<int64_t>(g.spike_ptr), address<int32_t>(g.spike_idx), nullptr};
    view.resets = {address<int64_t>(g.reset_ptr), address<int32_t>(g.reset_idx), nullptr};
    view.g_active = address<Real>(g.g_active);
    view.g_spikes = {address<Real>(g.g_spikes), g.g_spikes_stride_t, g.g_spikes_stride_b};
    view.g_membrane = {address<Real>(g.g_membrane), g.g_membrane_stride_t, g.g_membrane_stride_b};
    view.g_m_last = address<Real>(g.g_m_last);
    view.g_i_last = address<Real>(g.g_i_last);
    if (g.d_low) view.low = {address<int64_t>(g.low_ptr), address<int32_t>(g.low_idx), nullptr};
    view.d_low = writable<Real>(g.d_low);
    view.d_current = {writable<Real>(g.d_current), g.d_current_stride_t, g.d_current_stride_b};
    view.d_current_sum = writable<Real>(g.d_current_sum);
    view.d_m0 = writable<Real>(g.d_m0);
    view.d_i0 = writable<Real>(g.d_i0);
    view.want_weight = g.d_weight;
    view.x = {address<Real>(g.x), g.x_stride_t, g.x_stride_b};
    view.want_membrane = g.d_membrane;
    view.want_gain = g.d_gain;
    view.want_synapse = g.d_synapse;
    view.want_leak = g.d_leak;
    view.want_threshold = g.d_threshold;
    view.want_reset = g.d_reset;
    view.want_graded = g.d_graded;
    return view;
}

// Innovations are sparse only where no gradient reaches every membrane.
bool uses_trace(const Gradients& g, bool dense) {
    return g.d_weight && g.form == weight_trace && !dense && (g.x || !g.g_membrane);
}

// Neurons of a tile: as many as keep lambda and dW near, fewer where the batch alone would leave threads idle. The
// trace form filters the whole input for every tile, so it has one; so does a sparse scan without products, which keeps
// no lambda and has a fixed cost per row and tile.
template <class Real>
int64_t tile_width(const LayerView<Real>& view, const GradientView<Real>& grads, bool dense, bool wants_input) {
    constexpr int64_t whole = 1024 / int64_t(sizeof(Real)), part = whole / 2, small_batch = 8, most = 16 * part;
    if (grads.trace) return view.padded;
    if (view.batch < small_batch) return part / 2;
    const bool products = grads.want_weight || grads.d_low || wants_input;
    if (!dense && !products) return std::min(view.padded, most);
    return view.padded <= whole ? view.padded : part;
}

// A slot costs clearing and adding up one dW; it has to be paid for by the rows that it takes.
template <class Real>
int64_t slot_count(const LayerView<Real>& view, const GradientView<Real>& grads, int64_t tiles) {
    constexpr int64_t least = 4, most = 64;  // of slots times tiles: enough for as many threads
    if (!grads.want_weight) return std::min<int64_t>(view.batch, 16);
    const int64_t rows = view.batch * view.steps;
    const int64_t work = grads.trace ? rows + (grads.active.ptr ? grads.active.ptr[rows] : 0) : view.input.ptr[rows];
    const int64_t size = grads.trace ? view.width : view.inputs;
    const int64_t count = std::clamp<int64_t>(work / (100 * size), least / tiles, (most + tiles - 1) / tiles);
    return std::clamp<int64_t>(count, 1, view.batch);
}

template <class T>
T* moved(T* data, int64_t by) {
    return data ? data + by : nullptr;
}

// For neurons from `first` on; d_low is the tile's own.
template <class Real>
GradientView<Real> tile_of(GradientView<Real> grads, int64_t first, Real* d_low) {
    for (const Real** row : {&grads.g_spikes.data, &grads.g_membrane.data, &grads.g_m_last, &grads.g_i_last})
        *row = moved(*row, first);
    for (Real** row : {&grads.d_current.data, &grads.d_current_sum, &grads.d_m0, &grads.d_i0})
        *row = moved(*row, first);
    grads.d_low = d_low;
    return grads;
}

// The sums of all slots; row k of a slot's small sums belongs to output k of small_outputs. Of dW there is one, to
// which slots are added in their order. It lies tile by tile: [inputs, padded width of the tile], or [width, inputs
// padded] in trace form.
template <class Real>
class Slots {
  public:
    static constexpr int small = 8;

    Slots(const LayerView<Real>& view, const GradientView<Real>& grads, int64_t count)
        : count_(count),
          trace_(grads.trace),
          padded_(view.padded),
          row_size_(grads.trace ? padded_width(view.inputs) : view.inputs),
          rows_(count * small, view.padded),
          weight_(grads.want_weight ? weight_size(view) : 0),
          first_row_(rows_.take(0)) {}

    // weight_t: the slot's dW of the tile that begins at neuron `first`, or null.
    SlotSums<Real> slot(int64_t s, int64_t first, Real* weight_t) const {
        Real* r = first_row_ + s * small * padded_ + first;
        const int64_t n = padded_;
        return {weight_t, r, r + n, r + 2 * n, r + 3 * n, r + 4 * n, r + 5 * n, r + 6 * n, r + 7 * n};
    }
    // The whole dW of the tile that begins at neuron `first`.
    Real* weight(int64_t first) const { return weight_.get() + first * row_size_; }
    int64_t weight_size(const LayerView<Real>& tile) const { return row_size_ * (trace_ ? tile.width : tile.padded); }
    int64_t count() const { return count_; }

    // Sum over slots of small row k, entry j.
    Real total(int k, int64_t j) const {
        double sum = 0;
        for (int64_t s = 0; s < count_; ++s) sum += double(first_row_[(s * small + k) * padded_ + j]);
        return Real(sum);
    }

  private:
    int64_t count_;
    bool trace_;
    int64_t padded_, row_size_;
    Rows<Real> rows_;
    Buffer<Real> weight_;
    Real* first_row_;
};

// Writes dW of one tile as rows of d_weight [N, n_in].
template <class Real>
void write_weight(const LayerView<Real>& tile, const Slots<Real>& slots, bool trace, Real* d_weight, int64_t threads) {
    constexpr int64_t block = 32;
    const int64_t count = trace ? tile.width : tile.inputs, stride = trace ? padded_width(tile.inputs) : tile.padded;
    const int64_t blocks = (count + block - 1) / block;
    const Kernels<Real>& kernel = kernels_for<Real>();
    Real* to = d_weight + tile.first * tile.inputs;
#pragma omp parallel for schedule(static) num_threads(int(threads))
    for (int64_t k = 0; k < blocks; ++k) {
        const int64_t from = k * block, rows = std::min(block, count - from);
        const Real* sum = slots.weight(tile.first) + from * stride;
        if (!trace) kernel.transpose(sum, stride, rows, tile.width, to + from, tile.inputs, rows);
        for (int64_t r = 0; trace && r < rows; ++r)
            std::copy(sum + r * stride, sum + r * stride + tile.inputs, to + (from + r) * tile.inputs);
    }
}

// Adds what the tiles found for d_low, in their order.
template <class Real>
void add_partial(Real* sum, const Buffer<Real>& partial, int64_t tiles, int64_t count, int64_t threads) {
    constexpr int64_t block = 4096;
#pragma omp parallel for schedule(static) num_threads(int(threads))
    for (int64_t from = 0; from < count; from += block)
        for (int64_t k = 0; k + 1 < tiles; ++k)
            kernels_for<Real>().add_rows(sum + from, partial.get() + k * count + from, std::min(block, count - from));
}

// Values of the active entries of rows [from, from + rows), into `values` of all rows.
template <class Real>
void value_rows(const LayerView<Real>& view, const GradientView<Real>& grads, int64_t from, int64_t rows,
                Real* values) {
    const int64_t* ptr = grads.active.ptr;
    Buffer<uint16_t> event_row;
    for (int64_t row = from; row < from + rows; row += entry_block_rows) {
        const int64_t count = std::min(entry_block_rows, from + rows - row);
        event_row.reserve(ptr[row + count] - ptr[row] + event_row_group);
        kernels_for<Real>().entry_values(view, grads, row, count, event_row.get(), values);
    }
}

template <class Real>
void value_all_rows(const LayerView<Real>& view, const GradientView<Real>& grads, Real* values, int64_t threads) {
    const int64_t rows = view.batch * view.steps;
    ParallelErrors errors;
#pragma omp parallel for schedule(static) num_threads(int(threads))
    for (int64_t row = 0; row < rows; row += entry_block_rows)
        errors.guard([&] { value_rows(view, grads, row, std::min(entry_block_rows, rows - row), values); });
    errors.rethrow();
}

// Values of the entries of batch elements [from, to) alone, addressed as if those of all lay before them.
template <class Real>
const Real* slot_values(const LayerView<Real>& view, const GradientView<Real>& grads, int64_t from, int64_t to,
                        Buffer<Real>& memory) {
    const int64_t row = from * view.steps, rows = (to - from) * view.steps, first = grads.active.ptr[row];
    memory.reserve(grads.active.ptr[row + rows] - first + 1);  // never null
    Real* values = memory.get() - first;
    value_rows(view, grads, row, rows, values);
    return values;
}

template <class Real>
void write_small_sums(const LayerView<Real>& view, const Slots<Real>& slots, const Gradients& gradients) {
    const int64_t outputs[Slots<Real>::small] = {gradients.d_bias,    gradients.d_membrane, gradients.d_gain,
                                                 gradients.d_synapse, gradients.d_leak,     gradients.d_threshold,
                                                 gradients.d_reset,   gradients.d_graded};
    constexpr int leak = 4;
    for (int k = 0; k < Slots<Real>::small; ++k) {
        if (!outputs[k]) continue;
        // Only euler neurons have a leak; it enters w with factor a.
        const bool scaled = k == leak, unused = scaled && view.integrator == Integrator::decay;
        for (int64_t j = 0; j < view.width; ++j)
            writable<Real>(outputs[k])[j] =
                unused ? Real(0) : slots.total(k, j) * (scaled ? view.coefficients.membrane[j] : Real(1));
    }
}

template <class Real>
void backward_typed(const Layer& layer, const Gradients& gradients, bool dense) {
    const TypedLayer<Real> typed(layer);
    const LayerView<Real>& view = typed.view;
    if (dense) check_input(layer);
    check_gradients(layer, gradients, dense);
    GradientView<Real> grads = gradient_view<Real>(gradients);
    grads.trace = uses_trace(gradients, dense);
    const int64_t rows = view.batch * view.steps, width = tile_width(view, grads, dense, gradients.d_input);
    const int64_t tiles = (view.padded + width - 1) / width, lows = grads.low.ptr ? grads.low.ptr[rows] : 0;
    const int64_t entries = !dense && grads.active.ptr ? grads.active.ptr[rows] : 0;
    const Slots<Real> slots(view, grads, slot_count(view, grads, tiles));
    // Tiles share the values of their entries; without tiles each slot finds its own, just before it reads them.
    const Buffer<Real> values(tiles > 1 ? entries : 0), partial((tiles - 1) * lows);
    if (entries && tiles > 1) value_all_rows(view, grads, values.get(), layer.threads);
    grads.entry_values = values.get();
    const InputGradient<Real> input(view, gradients, tiles, layer.threads, grads);
    const Kernels<Real>& kernel = kernels_for<Real>();
    const auto reverse = dense ? kernel.dense_reverse : kernel.sparse_reverse;
    const int64_t items = slots.count() * tiles, threads = std::min(layer.threads, items);
    ParallelErrors errors;
#pragma omp parallel num_threads(int(threads))
    {
        Buffer<Real> own, own_values;  // dW of slots after the first, one at a time, and a slot's values
#pragma omp for ordered schedule(dynamic, 1)
        for (int64_t item = 0; item < items; ++item) {
            const int64_t k = item % tiles, s = item / tiles, first = k * width;
            const LayerView<Real> tile = typed.tile(first, std::min(width, view.width - first));
            const int64_t size = grads.want_weight ? slots.weight_size(tile) : 0;
            Real* weight_t = nullptr;
            bool found = false;
            errors.guard([&] {
                GradientView<Real> there = tile_of(grads, first, k ? partial.get() + (k - 1) * lows : grads.d_low);
                const int64_t from = view.batch * s / slots.count(), to = view.batch * (s + 1) / slots.count();
                if (entries && tiles == 1) there.entry_values = slot_values(view, grads, from, to, own_values);
                ReverseMemory<Real> memory(tile, there, typed.decay() + first, dense);
                if (s) own.reserve(size);
                if (size) weight_t = s ? own.get() : slots.weight(first);
                std::fill_n(weight_t, size, Real(0));
                reverse(tile, there, slots.slot(s, first, weight_t), memory.scratch, from, to);
                found = true;
            });
#pragma omp ordered
            if (found && s && size) kernel.add_rows(slots.weight(first), weight_t, size);
        }
    }
    errors.rethrow();
    input.finish();
    if (lows && tiles > 1) add_partial(grads.d_low, partial, tiles, lows, layer.threads);
    for (int64_t first = 0; grads.want_weight && first < view.padded; first += width)
        write_weight(typed.tile(first, std::min(width, view.width - first)), slots, grads.trace,
                     writable<Real>(gradients.d_weight), layer.threads);
    write_small_sums(view, slots, gradients);
}

}  // namespace

void run_backward(const Layer& layer, const Gradients& gradients, bool dense) {
    if (layer.dtype == float64)
        backward_typed<double>(layer, gradients, dense);
    else
        backward_typed<float>(layer, gradients, dense);
}

}  // namespace sparse_backend
