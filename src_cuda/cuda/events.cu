// Event lists: from dense inputs and from a scan's bits to compressed rows, and back to dense tensors.
//
// A list is made in three passes: bits (here, or in the forward scan), a count per row whose running sum is `ptr`, and
// the entries. Cost: a dense input is read once, plus the sectors of its non-zero entries where values are wanted; all
// else is work per word of 32 bits and per event. Counting and writing take a thread per row: the rows of neighbouring
// threads are neighbours in memory.
#include "view.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {
namespace {

constexpr int threads = 128;

struct BitView {
    uint32_t* data;
    int64_t stride_b, stride_t, stride_word, steps, rows, words;

    SB_INLINE uint32_t* row(int64_t r) const { return data + r / steps * stride_b + r % steps * stride_t; }
};

BitView bit_view(const BitRows& rows) {
    return {pointer<uint32_t>(rows.bits), rows.stride_b,       rows.stride_t, rows.stride_word, rows.steps,
            rows.batch * rows.steps,      words_of(rows.width)};
}

// Elements of dense inputs. Two-byte floats are handled as their bits: a value is decoded where it is not zero only.
struct Half {
    uint16_t bits;
};
struct BFloat {
    uint16_t bits;
};

SB_INLINE float from_bits(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
}

SB_INLINE bool is_zero(float x) { return x == 0.0f; }
SB_INLINE bool is_zero(double x) { return x == 0.0; }
SB_INLINE bool is_zero(uint8_t x) { return x == 0; }
SB_INLINE bool is_zero(Half x) { return (x.bits & 0x7FFF) == 0; }
SB_INLINE bool is_zero(BFloat x) { return (x.bits & 0x7FFF) == 0; }

SB_INLINE float value_of(float x) { return x; }
SB_INLINE double value_of(double x) { return x; }
SB_INLINE float value_of(uint8_t x) { return float(x); }
SB_INLINE float value_of(BFloat x) { return from_bits(uint32_t(x.bits) << 16); }
SB_INLINE float value_of(Half x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7FFF;
    if (rest >= 0x7C00) return from_bits(sign | 0x7F800000u | rest << 13);  // infinities and NaN
    // The exponents differ by 112; multiplying by 2^112 is exact, for subnormal numbers too.
    return from_bits(sign | rest << 13) * 5.192296858534828e33f;
}

template <class Input>
struct InputView {
    Strided<const Input> x;
    int64_t width;

    SB_INLINE const Input* row(int64_t r, int64_t steps) const { return x.row(r % steps, r / steps); }
};

// One warp per row, four words in flight.
template <class Input>
__global__ void __launch_bounds__(threads) mark_kernel(InputView<Input> input, BitView bits, int32_t* odd) {
    constexpr int ahead = 4;
    const int64_t r = (int64_t(blockIdx.x) * threads + threadIdx.x) / lanes;
    if (r >= bits.rows) return;
    const int lane = int(threadIdx.x % lanes);
    const Input* row = input.row(r, bits.steps);
    uint32_t* out = bits.row(r);
    bool other = false;
    for (int64_t word = 0; word < bits.words; word += ahead) {
        bool there[ahead];
#pragma unroll
        for (int k = 0; k < ahead; ++k) {
            const int64_t j = (word + k) * lanes + lane;
            const Input x = j < input.width ? row[j] : Input();
            there[k] = !is_zero(x);
            other |= there[k] && value_of(x) != 1;
        }
#pragma unroll
        for (int k = 0; k < ahead; ++k) {
            const uint32_t found = __ballot_sync(full_warp, there[k]);
            if (lane == k && word + k < bits.words) out[(word + k) * bits.stride_word] = found;
        }
    }
    if (__ballot_sync(full_warp, other) && lane == 0) atomicMax(odd, 1);
}

__global__ void __launch_bounds__(threads) count_kernel(BitView bits, int64_t* ptr) {
    const int64_t r = int64_t(blockIdx.x) * threads + threadIdx.x;
    if (r >= bits.rows) return;
    const uint32_t* row = bits.row(r);
    int64_t count = 0;
#pragma unroll 4
    for (int64_t word = 0; word < bits.words; ++word) count += __popc(row[word * bits.stride_word]);
    ptr[r + 1] = count;
    if (r == 0) ptr[0] = 0;
}

// Where an entry comes from, for those who write more than its index.
struct Entry {
    int64_t row, word;
    int bit, rank;  // rank: how many bits of the word come before

    SB_INLINE int64_t n() const { return word * lanes + bit; }
};

template <class Writer>
__global__ void __launch_bounds__(threads) write_kernel(BitView bits, const int64_t* ptr, int32_t* idx, Writer writer) {
    const int64_t r = int64_t(blockIdx.x) * threads + threadIdx.x;
    if (r >= bits.rows) return;
    const uint32_t* row = bits.row(r);
    int64_t e = ptr[r];
    for (int64_t word = 0; word < bits.words; ++word) {
        int rank = 0;
        for (uint32_t rest = row[word * bits.stride_word]; rest; rest &= rest - 1, ++e, ++rank) {
            const Entry entry = {r, word, __ffs(int(rest)) - 1, rank};
            idx[e] = int32_t(entry.n());
            writer.write(e, entry);
        }
    }
}

template <class Input, class Real>
struct InputWriter {
    InputView<Input> input;
    int64_t steps;
    Real* val;

    SB_DEVICE void write(int64_t e, const Entry& entry) const {
        if (val) val[e] = Real(value_of(input.row(entry.row, steps)[entry.n()]));
    }
};

template <class Real>
struct SpikeWriter {
    Source<Real> graded;
    Real* val;

    SB_DEVICE void write(int64_t e, const Entry& entry) const {
        if (val) val[e] = graded.at(entry.n());
    }
};

template <class Real>
struct ActiveWriter {
    const int32_t* before;
    const Real *staged_u, *staged_carriers;
    Real *u, *carriers;
    int64_t steps, words, region;
    int carrier_count;

    SB_DEVICE void write(int64_t e, const Entry& entry) const {
        const int64_t tile = entry.row / steps * words + entry.word;
        const int64_t from = tile * region + before[tile * steps + entry.row % steps] + entry.rank;
        u[e] = staged_u[from];
        for (int k = 0; k < carrier_count; ++k)
            carriers[e * carrier_count + k] = staged_carriers[from * carrier_count + k];
    }
};

template <class Writer>
void launch_write(const BitRows& rows, int64_t idx, const Writer& writer) {
    const BitView bits = bit_view(rows);
    SB_RUN("layer, kernel write_events", (write_kernel<Writer>), divide_up(bits.rows, threads), threads, rows, bits,
           pointer<const int64_t>(rows.ptr), pointer<int32_t>(idx), writer);
}

template <class Input>
InputView<Input> input_view(const DenseInput& input) {
    return {{pointer<const Input>(input.x), input.x_stride_t, input.x_stride_b}, input.width};
}

template <class Input>
void mark_typed(const DenseInput& input) {
    const BitView bits = bit_view(input);
    SB_RUN("compress, kernel mark_entries", (mark_kernel<Input>), divide_up(bits.rows * lanes, threads), threads, input,
           input_view<Input>(input), bits, pointer<int32_t>(input.odd));
}

template <class Input>
void write_input(const DenseInput& input, int64_t idx, int64_t val, int val_dtype) {
    if (val_dtype == float64)
        launch_write(input, idx,
                     InputWriter<Input, double>{input_view<Input>(input), input.steps, pointer<double>(val)});
    else
        launch_write(input, idx, InputWriter<Input, float>{input_view<Input>(input), input.steps, pointer<float>(val)});
}

template <class Real>
struct ExpansionView {
    EventRows events;
    const Real* val;
    Strided<Real> dense;
    int64_t steps, batch, width, begin, count;
};

// One warp per row: zeros, then the events.
template <class Real>
__global__ void __launch_bounds__(threads) scatter_kernel(ExpansionView<Real> view) {
    const int64_t r = (int64_t(blockIdx.x) * threads + threadIdx.x) / lanes;
    if (r >= view.count * view.batch) return;
    const int lane = int(threadIdx.x % lanes);
    const int64_t t = r / view.batch, b = r % view.batch, row = b * view.steps + view.begin + t;
    Real* out = view.dense.row(t, b);
    for (int64_t j = lane; j < view.width; j += lanes) out[j] = Real(0);
    __syncwarp();
    for (int64_t e = view.events.ptr[row] + lane; e < view.events.ptr[row + 1]; e += lanes)
        out[view.events.idx[e]] = view.val ? view.val[e] : Real(1);
}

// The entries of a dense tensor at the events; `val` is written here.
template <class Real>
__global__ void __launch_bounds__(threads) gather_kernel(ExpansionView<Real> view, Real* val) {
    const int64_t r = (int64_t(blockIdx.x) * threads + threadIdx.x) / lanes;
    if (r >= view.count * view.batch) return;
    const int lane = int(threadIdx.x % lanes);
    const int64_t t = r / view.batch, b = r % view.batch, row = b * view.steps + view.begin + t;
    const Real* from = view.dense.row(t, b);
    for (int64_t e = view.events.ptr[row] + lane; e < view.events.ptr[row + 1]; e += lanes)
        val[e] = from[view.events.idx[e]];
}

template <class Real>
ExpansionView<Real> expansion_view(const Expansion& x) {
    return {{pointer<const int64_t>(x.ptr), pointer<const int32_t>(x.idx)},
            pointer<const Real>(x.val),
            {pointer<Real>(x.dense), x.stride_t, x.stride_b},
            x.steps,
            x.batch,
            x.width,
            x.begin,
            x.end - x.begin};
}

template <class Real>
void scatter_typed(const Expansion& x) {
    SB_RUN("to_dense, kernel scatter", (scatter_kernel<Real>), divide_up((x.end - x.begin) * x.batch * lanes, threads),
           threads, x, expansion_view<Real>(x));
}

template <class Real>
void gather_typed(const Expansion& x) {
    SB_RUN("to_dense, kernel gather", (gather_kernel<Real>), divide_up((x.end - x.begin) * x.batch * lanes, threads),
           threads, x, expansion_view<Real>(x), pointer<Real>(x.val));
}

template <class Real>
void write_active_typed(const ActiveList& list) {
    ActiveWriter<Real> writer = {};
    writer.before = pointer<const int32_t>(list.before);
    writer.staged_u = pointer<const Real>(list.staged_u);
    writer.staged_carriers = pointer<const Real>(list.staged_carriers);
    writer.u = pointer<Real>(list.u);
    writer.carriers = pointer<Real>(list.carriers);
    writer.steps = list.steps;
    writer.words = words_of(list.width);
    writer.region = list.region;
    writer.carrier_count = list.carrier_count;
    launch_write(list, list.idx, writer);
}

}  // namespace
}  // namespace SPARSE_BACKEND_VARIANT

namespace variant = SPARSE_BACKEND_VARIANT;

void mark_entries(const DenseInput& input) {
    switch (input.dtype) {
    case float32: return variant::mark_typed<float>(input);
    case float64: return variant::mark_typed<double>(input);
    case float16: return variant::mark_typed<variant::Half>(input);
    case bfloat16: return variant::mark_typed<variant::BFloat>(input);
    default: return variant::mark_typed<uint8_t>(input);
    }
}

void write_entries(const DenseInput& input, int64_t idx, int64_t val, int val_dtype) {
    switch (input.dtype) {
    case float32: return variant::write_input<float>(input, idx, val, val_dtype);
    case float64: return variant::write_input<double>(input, idx, val, val_dtype);
    case float16: return variant::write_input<variant::Half>(input, idx, val, val_dtype);
    case bfloat16: return variant::write_input<variant::BFloat>(input, idx, val, val_dtype);
    default: return variant::write_input<uint8_t>(input, idx, val, val_dtype);
    }
}

void count_rows(const BitRows& rows) {
    const variant::BitView bits = variant::bit_view(rows);
    SB_RUN("layer, kernel count_rows", (variant::count_kernel), divide_up(bits.rows, variant::threads),
           variant::threads, rows, bits, variant::pointer<int64_t>(rows.ptr));
}

void write_spikes(const SpikeList& list) {
    if (list.dtype == float64)
        variant::launch_write(
            list, list.idx,
            variant::SpikeWriter<double>{variant::source<double>(list.graded, 1), variant::pointer<double>(list.val)});
    else
        variant::launch_write(
            list, list.idx,
            variant::SpikeWriter<float>{variant::source<float>(list.graded, 1), variant::pointer<float>(list.val)});
}

void write_active(const ActiveList& list) {
    if (list.dtype == float64)
        variant::write_active_typed<double>(list);
    else
        variant::write_active_typed<float>(list);
}

void scatter(const Expansion& expansion) {
    if (expansion.dtype == float64)
        variant::scatter_typed<double>(expansion);
    else
        variant::scatter_typed<float>(expansion);
}

void gather(const Expansion& expansion) {
    if (expansion.dtype == float64)
        variant::gather_typed<double>(expansion);
    else
        variant::gather_typed<float>(expansion);
}

}  // namespace sparse_backend
