// Driver of the forward scan: chunks of the batch in turn, each in tiles of neurons.
#include <algorithm>
#include <limits>
#include <stdexcept>

#include "dispatch.hpp"
#include "scratch.hpp"

namespace sparse_backend {

namespace {

// How the work is cut: chunks of the batch, each in tiles of neurons. A wide layer has several tiles; of a narrow one
// several batch elements lie together in a row, and are a chunk. Items are numbered chunk by chunk. The results do not
// depend on how it is cut.
struct Items {
    int64_t width, tile, batch, together;
    Chunks chunks = {};

    int64_t tiles() const { return (width + tile - 1) / tile; }
    // Tiles times rows of batch elements: the most items there can be.
    int64_t strips() const { return tiles() * ((batch + together - 1) / together); }
    int64_t count() const { return tiles() * chunks.count(); }
};

// Whether a row of several batch elements is one in the memory of all dense arrays.
bool side_by_side(const Layer& layer) {
    return (!layer.current || layer.current_stride_b == layer.width) &&
           (!layer.spikes || layer.spikes_stride_b == layer.width) &&
           (!layer.membrane_out || layer.membrane_stride_b == layer.width);
}

// Wide tiles read the events less often; narrower ones keep their rows of W^T in L2 (about cache_size) while a chunk
// passes. Narrow rows waste a part of their vectors, and as parts of lines that lie a whole step apart they are slow to
// write. All threads are to have some strips.
Items choose_items(const Layer& layer) {
    constexpr int64_t cache_size = int64_t(1) << 20, narrowest = 64, narrowest_for_cache = 128, strips_per_thread = 4;
    constexpr int64_t row_of_several = 640, most_together = 32;
    // Of a chunk: so many that its events are still in L2 when they are copied, or that a tile's weights are worth it.
    constexpr int64_t rows_of_one_tile = 1024, rows_of_several_tiles = 8192;
    const int64_t size = layer.dtype == float64 ? 8 : 4, neuron_bytes = layer.current ? 0 : layer.inputs * size;
    const int64_t enough = strips_per_thread * layer.threads;
    Items items = {layer.width, padded_width(layer.width), layer.batch, 1};
    while ((items.tile > narrowest_for_cache && items.tile * neuron_bytes > cache_size) ||
           (items.tile > narrowest && items.strips() < enough))
        items.tile = (items.tile / 2 + narrowest - 1) / narrowest * narrowest;
    while (side_by_side(layer) && items.tile <= narrowest && items.tiles() == 1 &&
           2 * items.together * layer.width <= row_of_several && items.together < most_together &&
           items.strips() >= 2 * enough)
        items.together *= 2;
    const int64_t rows = items.tiles() == 1 ? rows_of_one_tile : rows_of_several_tiles;
    const int64_t fair = std::max(items.strips() / enough, int64_t(1));
    const int64_t elements = std::clamp((rows + layer.steps - 1) / layer.steps, int64_t(1), fair);
    items.chunks = {layer.batch, layer.steps, items.together > 1 ? items.together : elements};
    return items;
}

// One of an item's lists while it grows.
template <class Real>
class GrowingList {
  public:
    // width: neurons of a batch element.  by_event: whether each event is to have its row beside it.
    GrowingList(CollectedEvents& list, const Chunk& chunk, int64_t width, bool by_event)
        : list_(list), by_event_(by_event) {
        sink.last = std::numeric_limits<int64_t>::max();
        if (!list.wanted()) return;
        piece_.steps = chunk.steps;
        if (!by_event) piece_.counts.reserve(chunk.rows());
        expected_ = width + chunk.rows() * width / 16;  // one entry in sixteen; doubling does the rest
    }

    // row: of the chunk, the first of the batch elements that follow.
    void start(int64_t row) {
        if (list_.wanted() && !by_event_) sink.row_counts = piece_.counts.get() + row;
    }
    // values and extras: how many there are of an event.
    void make_room(int64_t width, int64_t values, int64_t extras) {
        if (!list_.wanted()) return;
        const int64_t least = sink.count + width + append_room;
        if (least > room_) room_ = std::max({least, 2 * room_, expected_});
        piece_.idx.reserve(room_, sink.count);
        if (by_event_) piece_.rows.reserve(room_, sink.count);
        piece_.values.reserve(bytes(room_ * values), bytes(sink.count * values));
        piece_.extras.reserve(bytes(room_ * extras), bytes(sink.count * extras));
        sink.idx = piece_.idx.get();
        sink.rows = piece_.rows.get();
        sink.last = room_ - width - append_room;
    }
    void finish(int64_t chunk, int64_t tile) {
        if (!list_.wanted()) return;
        piece_.count = sink.count;
        list_.add(chunk, tile, std::move(piece_));
    }
    Real* values() const { return reinterpret_cast<Real*>(piece_.values.get()); }
    Real* extras() const { return reinterpret_cast<Real*>(piece_.extras.get()); }

    EventSink sink = {};

  private:
    static int64_t bytes(int64_t count) { return count * int64_t(sizeof(Real)); }

    CollectedEvents& list_;
    const bool by_event_;
    EventPiece piece_;
    int64_t room_ = 0, expected_ = 0;  // events
};

// One item and the events that it leaves.
template <class Real>
class ItemScan {
  public:
    // view: of the tile, with as many elements together as rows are to have.  by_event: see GrowingList.
    ItemScan(const LayerView<Real>& view, const Chunk& chunk, bool by_event, ForwardResult& result)
        : view_(view),
          chunk_(chunk),
          spikes_(result.spikes, chunk, view.width / view.together, by_event),
          active_(result.active, chunk, view.width / view.together, by_event),
          resets_(result.resets, chunk, view.width / view.together, by_event) {}

    void run() {
        ForwardScratch<Real> scratch(view_);
        ForwardCursor<Real>& cursor = scratch.cursor;
        const int64_t end = chunk_.b + chunk_.elements;
        for (cursor.b = chunk_.b; cursor.b < end; cursor.b += view_.together) {
            for (GrowingList<Real>* list : {&spikes_, &active_, &resets_})
                list->start((cursor.b - chunk_.b) * view_.steps);
            cursor.t = 0;
            while (!advance(cursor)) continue;
        }
    }
    void finish(int64_t chunk, int64_t tile) {
        for (GrowingList<Real>* list : {&spikes_, &active_, &resets_}) list->finish(chunk, tile);
    }

  private:
    // Until the sequence ends or a list is full.
    bool advance(ForwardCursor<Real>& cursor) {
        spikes_.make_room(view_.width, 0, 0);
        active_.make_room(view_.width, 1, view_.carrier_count);
        resets_.make_room(view_.width, 0, 0);
        cursor.spike_sink = spikes_.sink;
        cursor.active_sink = active_.sink;
        cursor.reset_sink = resets_.sink;
        cursor.active_u = active_.values();
        cursor.active_carriers = active_.extras();
        const bool done = kernels_for<Real>().forward(view_, cursor);
        spikes_.sink = cursor.spike_sink;
        active_.sink = cursor.active_sink;
        resets_.sink = cursor.reset_sink;
        return done;
    }

    const LayerView<Real>& view_;
    const Chunk chunk_;
    GrowingList<Real> spikes_, active_, resets_;
};

template <class Real>
void scan_item(const TypedLayer<Real>& typed, const Items& items, ForwardResult& result, int64_t item) {
    const int64_t k = item / items.tiles(), tile = item % items.tiles(), first = tile * items.tile;
    const Chunk chunk = items.chunks[k];
    const LayerView<Real> view = items.together > 1 ? typed.with_together(chunk.elements)
                                                    : typed.tile(first, std::min(items.tile, items.width - first));
    ItemScan<Real> scan(view, chunk, items.together > 1, result);
    scan.run();
    scan.finish(k, tile);
}

template <class Real>
std::unique_ptr<ForwardResult> forward_typed(const Layer& layer) {
    check_layer(layer);
    check_input(layer);
    const Items items = choose_items(layer);
    const TypedLayer<Real> typed(layer, items.together);
    const LayerView<Real>& view = typed.view;
    auto result = std::make_unique<ForwardResult>();
    result->dtype = layer.dtype;
    result->threads = layer.threads;
    result->graded.assign(view.coefficients.graded, view.coefficients.graded + view.columns);
    const Order order = items.together > 1 ? Order::by_event : Order::by_element;
    const int64_t size = sizeof(Real);
    if (view.want_spikes) result->spikes.prepare(items.chunks, items.tiles(), order, 0);
    if (view.want_active) result->active.prepare(items.chunks, items.tiles(), order, size, size * view.carrier_count);
    if (view.want_resets) result->resets.prepare(items.chunks, items.tiles(), order, 0);
    const int64_t count = items.count();
    ParallelErrors errors;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(std::min(layer.threads, count)))
    for (int64_t item = 0; item < count; ++item) errors.guard([&] { scan_item(typed, items, *result, item); });
    errors.rethrow();
    return result;
}

// graded, per neuron.
template <class Real>
void write_spike_values(const ForwardResult& result, Real* val) {
    const int64_t count = result.spikes.count();
    const int32_t* idx = result.spikes.idx.get();
#pragma omp parallel for schedule(static) num_threads(int(result.threads))
    for (int64_t e = 0; e < count; ++e) val[e] = Real(result.graded[size_t(idx[e])]);
}

}  // namespace

void ForwardResult::write_spike_values(int64_t val) const {
    if (dtype == float64)
        sparse_backend::write_spike_values(*this, writable<double>(val));
    else
        sparse_backend::write_spike_values(*this, writable<float>(val));
}

std::unique_ptr<ForwardResult> run_forward(const Layer& layer) {
    if (layer.carriers && !layer.want_active)
        throw std::invalid_argument("carriers=" + std::to_string(layer.carriers) + " needs want_active");
    return layer.dtype == float64 ? forward_typed<double>(layer) : forward_typed<float>(layer);
}

}  // namespace sparse_backend
