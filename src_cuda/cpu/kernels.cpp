// All kernels of one instruction set. CMake compiles this file once per set, each with its own
// SPARSE_BACKEND_VARIANT and -march; dispatch.cpp picks one at run time.
#include "compress_rows.hpp"
#include "convolution_input.hpp"
#include "convolution_row.hpp"
#include "dense_product.hpp"
#include "dense_scan.hpp"
#include "neuron_scan.hpp"
#include "sparse_scan.hpp"
#include "transpose.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {
namespace {

template <class Real>
bool is_supported(Integrator integrator, int poles, Pre pre, Post post) {
    return find_step<Real>(integrator, poles, pre, post).step != nullptr;
}

template <class Real>
void add_rows(Real* target, const Real* source, int64_t n) {
    add_row(target, source, n);
}

template <class Real>
constexpr Kernels<Real> kernels_of() {
    return {forward_scan<Real>,
            sparse_reverse<Real>,
            dense_reverse<Real>,
            entry_values<Real>,
            is_supported<Real>,
            compress_rows<Real, Real>,
            transpose<Real>,
            add_rows<Real>,
            {packed_size<Real>, pack_panels<Real>, multiply<Real>},
            {pack_transposed<Real>, multiply_blocked<Real>},
            convolve_row<Real>,
            expand_row<Real>,
            reverse_row<Real>,
            input_gradient_row<Real>};
}

}  // namespace

// Constant-initialised: an initialiser run at load time could execute instructions this machine lacks.
extern const KernelSet kernel_set;
constexpr KernelSet kernel_set = {kernels_of<float>(), kernels_of<double>(), compress_rows<uint8_t, float>};

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend
