// snnTorch's Leaky with reset by subtraction over a whole sequence, dense, forward and reverse: what a fused program
// that knows nothing of sparsity does between its matrix products.
//
// Cost per entry: forward reads the current and writes u and z once; reverse reads u and the gradients that there are
// and writes lam once. The state of a block of columns (b, n) stays in L1 over all steps.
#include <algorithm>
#include <cmath>
#include <cstdint>

namespace {

constexpr int64_t block = 1024;

int64_t columns_per_task(int64_t columns, int threads) {
    const int64_t share = (columns + threads - 1) / threads;
    return std::min(block, (share + 15) / 16 * 16);
}

enum class Surrogate : int { atan = 0, fast_sigmoid = 1 };

template <Surrogate kind>
float derivative(float x, float parameter) {
    if constexpr (kind == Surrogate::atan) {
        const float scaled = float(M_PI_2) * parameter * x;
        return parameter / 2 / (1 + scaled * scaled);
    }
    const float distance = parameter * std::fabs(x) + 1;
    return 1 / (distance * distance);
}

struct Reverse {
    const float *u, *g_z;
    int64_t g_z_stride;  // 0: the same at every step
    const float* g_u;    // or null
    float *lam, *total;  // lam or null; total: its sum over time
    int64_t steps, columns;
    float beta, threshold, parameter;
};

template <Surrogate kind>
void reverse_columns(const Reverse& r, int64_t from, int64_t count) {
    float carried[block] = {}, sum[block] = {};
    for (int64_t t = r.steps - 1; t >= 0; --t) {
        const int64_t at = t * r.columns + from;
        const float *u = r.u + at, *g_z = r.g_z ? r.g_z + t * r.g_z_stride + from : nullptr;
        const float* g_u = r.g_u ? r.g_u + at : nullptr;
        for (int64_t j = 0; j < count; ++j) carried[j] *= r.beta;
        if (g_z)
            for (int64_t j = 0; j < count; ++j)
                carried[j] += derivative<kind>(u[j] - r.threshold, r.parameter) * g_z[j];
        if (g_u)
            for (int64_t j = 0; j < count; ++j) carried[j] += g_u[j];
        for (int64_t j = 0; j < count; ++j) sum[j] += carried[j];
        if (r.lam) std::copy(carried, carried + count, r.lam + at);
    }
    std::copy(sum, sum + count, r.total + from);
}

}  // namespace

extern "C" {

// current: [steps, columns], or [columns] with stride 0; u may be the current itself.
void scan_forward(const float* current, int64_t stride, float* u, float* z, int64_t steps, int64_t columns, float beta,
                  float threshold, int threads) {
    const int64_t task = columns_per_task(columns, threads);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t from = 0; from < columns; from += task) {
        const int64_t count = std::min(task, columns - from);
        float m[block] = {};
        for (int64_t t = 0; t < steps; ++t) {
            const float* in = current + t * stride + from;
            float *u_row = u + t * columns + from, *z_row = z + t * columns + from;
            for (int64_t j = 0; j < count; ++j) {
                const float reset = m[j] > threshold ? threshold : 0.0f;
                m[j] = beta * m[j] + in[j] - reset;
                u_row[j] = m[j];
                z_row[j] = m[j] > threshold ? 1.0f : 0.0f;
            }
        }
    }
}

void scan_reverse(const float* u, const float* g_z, int64_t g_z_stride, const float* g_u, float* lam, float* total,
                  int64_t steps, int64_t columns, float beta, float threshold, int surrogate, float parameter,
                  int threads) {
    const Reverse r = {u, g_z, g_z_stride, g_u, lam, total, steps, columns, beta, threshold, parameter};
    const int64_t task = columns_per_task(columns, threads);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t from = 0; from < columns; from += task) {
        const int64_t count = std::min(task, columns - from);
        if (Surrogate(surrogate) == Surrogate::atan)
            reverse_columns<Surrogate::atan>(r, from, count);
        else
            reverse_columns<Surrogate::fast_sigmoid>(r, from, count);
    }
}
}
