// What the memory system of this machine gives at best: the loops that event kernels are made of, and nothing else.
#include <cstdint>

namespace {

typedef float Vector __attribute__((vector_size(64), aligned(4)));
constexpr int lanes = 16, row = 128, vectors = row / lanes;

// A register of the processor, and sums enough to keep all multipliers busy: more would not fit AVX2's registers.
#ifdef __AVX512F__
constexpr int register_bytes = 64;
#else
constexpr int register_bytes = 32;
#endif
constexpr int register_lanes = register_bytes / int(sizeof(float));
typedef float Register __attribute__((vector_size(register_bytes)));
constexpr int sums = 10;

// The library is compiled without contraction; here the fused instruction is what is asked for.
__attribute__((noinline, optimize("fp-contract=fast"))) float multiply_in_registers(int64_t rounds, float by) {
    // Every lane of every sum differs, and all are read at the end: of equal ones the compiler keeps one, and of those
    // that nobody reads none.
    Register sum[sums], all = {};
    for (int k = 0; k < sums; ++k)
        for (int lane = 0; lane < register_lanes; ++lane) sum[k][lane] = by * float(k + lane);
    const Register factor = Register{} + by;
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 10
        for (int k = 0; k < sums; ++k) sum[k] = sum[k] * factor + factor;
    }
    for (int k = 0; k < sums; ++k) all += sum[k];
    float total = 0;
    for (int lane = 0; lane < register_lanes; ++lane) total += all[lane];
    return total;
}

}  // namespace

extern "C" {

// Floats of a row in read_rows and update_rows: accumulators fit the registers of AVX-512 and AVX2.
int64_t row_width() { return row; }

// Multiply-adds of one round of multiply_add.
int64_t round_size() { return sums * register_lanes; }

// `rounds` rounds of multiply-adds on each thread, from registers only.
float multiply_add(int64_t rounds, float by, int threads) {
    float total = 0;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : total)
    for (int thread = 0; thread < threads; ++thread) total += multiply_in_registers(rounds, by);
    return total;
}

// Reads n floats once, in order, each thread its own part. n: a multiple of 128 per thread; ahead: floats that the
// software prefetch is ahead.
float stream(const float* data, int64_t n, int64_t ahead, int threads) {
    float total = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : total)
    for (int64_t begin = 0; begin < n; begin += n / threads) {
        Vector sum[vectors] = {};
        for (int64_t i = begin; i + row <= begin + n / threads; i += row) {
#pragma GCC unroll 8
            for (int k = 0; k < vectors; ++k) {
                __builtin_prefetch(data + i + ahead + k * lanes);
                sum[k] += *(const Vector*)(data + i + k * lanes);
            }
        }
        for (int k = 0; k < vectors; ++k) total += sum[k][0];
    }
    return total;
}

// Sums `count` rows of one matrix [rows, 128] per thread, in the order given.
float read_rows(const float* matrix, const int32_t* order, int64_t count, int threads) {
    float total = 0;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : total)
    for (int thread = 0; thread < threads; ++thread) {
        Vector sum[vectors] = {};
        for (int64_t e = 0; e < count; ++e) {
            const float* from = matrix + int64_t(order[e]) * row;
#pragma GCC unroll 8
            for (int k = 0; k < vectors; ++k) sum[k] += *(const Vector*)(from + k * lanes);
        }
        for (int k = 0; k < vectors; ++k) total += sum[k][0];
    }
    return total;
}

// Adds to `count` rows per thread, each thread in its own matrix of [threads, rows, 128].
void update_rows(float* matrices, int64_t rows, const int32_t* order, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; ++thread) {
        float* matrix = matrices + thread * rows * row;
        const Vector add = Vector{} + 1e-30f;
        for (int64_t e = 0; e < count; ++e) {
            float* target = matrix + int64_t(order[e]) * row;
#pragma GCC unroll 8
            for (int k = 0; k < vectors; ++k) *(Vector*)(target + k * lanes) += add;
        }
    }
}
}
