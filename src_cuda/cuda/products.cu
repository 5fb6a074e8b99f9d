// dW and the input gradient of one chunk of time steps, by events; lambda of the chunk, [chunk, B, N], lies in L2.
//
// dW: the input's events are grouped by input once per layer, for each chunk on its own and in the order of the rows (a
// counting sort: counts per (chunk, input, batch element), their running sum by torch, then each event to its place). A
// block owns 32 columns of a row of dW^T and adds up the rows of lambda that its input's events name: four warps a
// quarter each, their sums in fixed order. Cost: one row segment of lambda (L2) per event; nothing is added atomically.
//
// Input gradient: one warp per row (t, b), a dot product of lambda with a row of W^T (L2) per entry that was active
// below, four at a time.
#include "view.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {
namespace {

constexpr int threads = 128;
constexpr int warps = threads / lanes;

struct GroupView {
    EventRows input;
    int64_t steps, batch, inputs, chunk, chunks;
    int32_t* counts;
    const int64_t* offsets;
    int32_t* rows;

    // Where the count of an input in a chunk and batch element stands.
    SB_INLINE int64_t cell(int64_t c, int64_t input, int64_t b) const { return (c * inputs + input) * batch + b; }
};

// Events of one (b, chunk), 32 at a time: calls visit(event, input, peers) with the lanes that have the same input. All
// lanes call it, those past the end with an input of -1.
template <class Visit>
SB_DEVICE void for_events(const GroupView& view, int64_t b, int64_t c, int lane, const Visit& visit) {
    const int64_t row = b * view.steps, last = (c + 1) * view.chunk;
    const int64_t end = view.input.ptr[row + (last < view.steps ? last : view.steps)];
    for (int64_t e = view.input.ptr[row + c * view.chunk]; e < end; e += lanes) {
        const int32_t input = e + lane < end ? view.input.idx[e + lane] : -1;
        visit(e + lane, input, __match_any_sync(full_warp, input));
        // The cells that other lanes wrote are read in the next round.
        __syncwarp();
    }
}

__global__ void __launch_bounds__(threads) count_inputs_kernel(GroupView view) {
    const int64_t task = (int64_t(blockIdx.x) * threads + threadIdx.x) / lanes;
    if (task >= view.batch * view.chunks) return;
    const int lane = int(threadIdx.x % lanes);
    const int64_t b = task % view.batch, c = task / view.batch;
    for_events(view, b, c, lane, [&](int64_t, int32_t input, uint32_t peers) {
        if (input >= 0 && __ffs(int(peers)) - 1 == lane) view.counts[view.cell(c, input, b)] += __popc(peers);
    });
}

// counts become what is left to place, which tells where the next event of a cell goes.
template <class Real>
__global__ void __launch_bounds__(threads) group_inputs_kernel(GroupView view, const Real* val, Real* grouped_val) {
    const int64_t task = (int64_t(blockIdx.x) * threads + threadIdx.x) / lanes;
    if (task >= view.batch * view.chunks) return;
    const int lane = int(threadIdx.x % lanes);
    const int64_t b = task % view.batch, c = task / view.batch;
    int64_t row = b * view.steps + c * view.chunk;
    for_events(view, b, c, lane, [&](int64_t e, int32_t input, uint32_t peers) {
        int64_t place = 0;
        if (input >= 0) {
            const int64_t cell = view.cell(c, input, b);
            place = view.offsets[cell + 1] - view.counts[cell] + __popc(peers & ((1u << lane) - 1));
        }
        __syncwarp();
        if (input < 0) return;
        if (__ffs(int(peers)) - 1 == lane) view.counts[view.cell(c, input, b)] -= __popc(peers);
        while (view.input.ptr[row + 1] <= e) ++row;  // a lane's events come in the order of the rows
        view.rows[place] = int32_t((row - b * view.steps - c * view.chunk) * view.batch + b);
        if (grouped_val) grouped_val[place] = val[e];
    });
}

template <class Real>
struct WeightView {
    const int64_t* offsets;  // of this chunk's cells
    const int32_t* rows;
    const Real *val, *lambda;
    Real* d_weight_t;
    int64_t batch, width, words;
    bool add;
};

template <class Real>
__global__ void __launch_bounds__(threads) weight_kernel(WeightView<Real> view) {
    constexpr int ahead = 8;
    __shared__ Real partial[warps * lanes];
    const int64_t input = blockIdx.x / view.words;
    const int warp = int(threadIdx.x) / lanes, lane = int(threadIdx.x) % lanes;
    const int64_t n = int64_t(blockIdx.x % view.words) * lanes + lane;
    const bool valid = n < view.width;
    const int64_t first = view.offsets[input * view.batch], count = view.offsets[(input + 1) * view.batch] - first;
    const int64_t from = first + count * warp / warps, to = first + count * (warp + 1) / warps;
    const Real* column = view.lambda + n;
    Real sum = Real(0);
    for (int64_t e = from; e < to; e += lanes) {
        const int batch = to - e < lanes ? int(to - e) : lanes;
        const int32_t row = lane < batch ? view.rows[e + lane] : 0;
        const Real value = view.val && lane < batch ? view.val[e + lane] : Real(1);
        for (int k0 = 0; k0 < batch; k0 += ahead) {
            Real loaded[ahead];
#pragma unroll
            for (int k = 0; k < ahead; ++k) {
                const int64_t r = __shfl_sync(full_warp, row, k0 + k);
                loaded[k] = valid && k0 + k < batch ? column[r * view.width] : Real(0);
            }
#pragma unroll
            for (int k = 0; k < ahead; ++k)
                sum += view.val ? __shfl_sync(full_warp, value, k0 + k) * loaded[k] : loaded[k];
        }
    }
    partial[threadIdx.x] = sum;
    __syncthreads();
    if (warp != 0 || !valid) return;
    Real total = partial[lane];
    for (int w = 1; w < warps; ++w) total += partial[w * lanes + lane];
    Real* out = view.d_weight_t + input * view.width + n;
    *out = view.add ? *out + total : total;
}

template <class Real>
struct SampleView {
    EventRows low;
    const Real *lambda, *weight_t;
    Real* d_low;
    int64_t steps, batch, width, begin, count;
};

template <class Real>
__global__ void __launch_bounds__(threads) sample_kernel(SampleView<Real> view) {
    constexpr int together = 4;
    const int64_t r = (int64_t(blockIdx.x) * threads + threadIdx.x) / lanes;
    if (r >= view.count * view.batch) return;
    const int lane = int(threadIdx.x % lanes);
    const int64_t t = r / view.batch, b = r % view.batch, row = b * view.steps + view.begin + t;
    const Real* lambda = view.lambda + r * view.width;
    const int64_t end = view.low.ptr[row + 1];
    for (int64_t e = view.low.ptr[row]; e < end; e += together) {
        const Real* weight[together];
        Real sum[together] = {};
#pragma unroll
        for (int k = 0; k < together; ++k)
            weight[k] = view.weight_t + int64_t(view.low.idx[e + k < end ? e + k : e]) * view.width;
#pragma unroll 2
        for (int64_t n = lane; n < view.width; n += lanes) {
            const Real factor = lambda[n];
#pragma unroll
            for (int k = 0; k < together; ++k) sum[k] += factor * weight[k][n];
        }
#pragma unroll
        for (int k = 0; k < together; ++k)
#pragma unroll
            for (int step = lanes / 2; step; step /= 2) sum[k] += __shfl_xor_sync(full_warp, sum[k], step);
#pragma unroll
        for (int k = 0; k < together; ++k)
            if (lane == k && e + k < end) view.d_low[e + k] = sum[k];
    }
}

GroupView group_view(const Products& p) {
    return {{pointer<const int64_t>(p.in_ptr), pointer<const int32_t>(p.in_idx)},
            p.steps,
            p.batch,
            p.inputs,
            p.chunk,
            divide_up(p.steps, p.chunk),
            pointer<int32_t>(p.counts),
            pointer<const int64_t>(p.offsets),
            pointer<int32_t>(p.grouped)};
}

template <class Real>
void group_typed(const Products& p) {
    const GroupView view = group_view(p);
    SB_RUN("layer_backward, kernel group_inputs", (group_inputs_kernel<Real>),
           divide_up(view.batch * view.chunks * lanes, threads), threads, p, view, pointer<const Real>(p.in_val),
           pointer<Real>(p.grouped_val));
}

template <class Real>
void weight_typed(const Products& p, int64_t chunk) {
    const int64_t last = divide_up(p.steps, p.chunk) - 1;
    WeightView<Real> view = {};
    view.offsets = pointer<const int64_t>(p.offsets) + chunk * p.inputs * p.batch;
    view.rows = pointer<const int32_t>(p.grouped);
    view.val = pointer<const Real>(p.grouped_val);
    view.lambda = pointer<const Real>(p.lambda);
    view.d_weight_t = pointer<Real>(p.d_weight_t);
    view.batch = p.batch;
    view.width = p.width;
    view.words = words_of(p.width);
    view.add = chunk != last;
    SB_RUN("layer_backward, kernel weight_gradient", (weight_kernel<Real>), p.inputs * view.words, threads, p, view);
}

template <class Real>
void sample_typed(const Products& p, int64_t begin, int64_t end) {
    SampleView<Real> view = {};
    view.low = {pointer<const int64_t>(p.low_ptr), pointer<const int32_t>(p.low_idx)};
    view.lambda = pointer<const Real>(p.lambda);
    view.weight_t = pointer<const Real>(p.weight_t);
    view.d_low = pointer<Real>(p.d_low);
    view.steps = p.steps;
    view.batch = p.batch;
    view.width = p.width;
    view.begin = begin;
    view.count = end - begin;
    SB_RUN("layer_backward, kernel input_gradient", (sample_kernel<Real>),
           divide_up(view.count * view.batch * lanes, threads), threads, p, view);
}

}  // namespace
}  // namespace SPARSE_BACKEND_VARIANT

namespace variant = SPARSE_BACKEND_VARIANT;

void count_inputs(const Products& p) {
    const variant::GroupView view = variant::group_view(p);
    SB_RUN("layer_backward, kernel count_inputs", (variant::count_inputs_kernel),
           divide_up(view.batch * view.chunks * lanes, variant::threads), variant::threads, p, view);
}

void group_inputs(const Products& p) {
    if (p.dtype == float64)
        variant::group_typed<double>(p);
    else
        variant::group_typed<float>(p);
}

void weight_gradient(const Products& p, int64_t chunk) {
    if (p.dtype == float64)
        variant::weight_typed<double>(p, chunk);
    else
        variant::weight_typed<float>(p, chunk);
}

void input_gradient(const Products& p, int64_t begin, int64_t end) {
    if (p.dtype == float64)
        variant::sample_typed<double>(p, begin, end);
    else
        variant::sample_typed<float>(p, begin, end);
}

}  // namespace sparse_backend
