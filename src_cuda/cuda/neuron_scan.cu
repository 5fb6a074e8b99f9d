// Forward neuron scan over T for the whole spec family.
//
// One thread per (b, n) with its state in registers; per step it reads one current and writes what was asked for, all
// coalesced along n. Cost: T B N (1 read + writes) of memory traffic, which is what bounds it; the step is ~10 flops.
#include "../common/neuron_step.hpp"
#include "../common/structures.hpp"
#include "launch.hpp"
#include "scan.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <class Real>
struct Source {  // one value, or one per neuron
    const Real* data;
    int stride;
    Real fallback;

    SB_INLINE Real at(int64_t n) const { return data ? data[n * stride] : fallback; }
};

template <class Real>
struct ScanView {
    int64_t steps, batch, width;
    const Real* current;
    int64_t current_stride_t, current_stride_b;
    Source<Real> membrane, gain, synapse, leak, threshold, reset, graded;
    const Real *m0, *i0;
    Real *spikes, *membrane_out, *u_out, *m_last, *i_last;
    uint8_t* spike_bytes;
    int64_t spikes_stride_t, spikes_stride_b, membrane_stride_t, membrane_stride_b, u_stride_t, u_stride_b;
};

template <class Neuron, class Real>
__global__ void neuron_scan(ScanView<Real> scan) {
    const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= scan.batch * scan.width) return;
    const int64_t b = index / scan.width, n = index % scan.width;
    const Coefficients<Real> c = {scan.membrane.at(n),  scan.gain.at(n),  scan.synapse.at(n), scan.leak.at(n),
                                  scan.threshold.at(n), scan.reset.at(n), scan.graded.at(n)};
    Real m = scan.m0 ? scan.m0[index] : Real(0);
    Real i = Neuron::two_poles && scan.i0 ? scan.i0[index] : Real(0);
    const Real* current = scan.current + b * scan.current_stride_b + n;
    for (int64_t t = 0; t < scan.steps; ++t) {
        const Step<Real> step = Neuron::forward(c, m, i, current[t * scan.current_stride_t]);
        m = step.m;
        if (Neuron::two_poles) i = step.i;
        const int64_t spike_at = t * scan.spikes_stride_t + b * scan.spikes_stride_b + n;
        if (scan.spikes) scan.spikes[spike_at] = c.graded * step.s;
        if (scan.spike_bytes) scan.spike_bytes[spike_at] = step.s != Real(0) ? 1 : 0;
        if (scan.membrane_out) scan.membrane_out[t * scan.membrane_stride_t + b * scan.membrane_stride_b + n] = m;
        if (scan.u_out) scan.u_out[t * scan.u_stride_t + b * scan.u_stride_b + n] = step.u;
    }
    if (scan.m_last) scan.m_last[index] = m;
    if (scan.i_last && Neuron::two_poles) scan.i_last[index] = i;
}

template <class Real>
Source<Real> source(const Coefficient& coefficient, Real fallback) {
    return {reinterpret_cast<const Real*>(coefficient.address), coefficient.per_neuron ? 1 : 0, fallback};
}

template <class Real>
ScanView<Real> view_of(const Scan& scan) {
    ScanView<Real> view = {};
    const auto writable = [](int64_t address) { return reinterpret_cast<Real*>(address); };
    // A neuron that does not fire has a threshold that nothing passes.
    const Real infinity = std::numeric_limits<Real>::infinity();
    view.steps = scan.steps;
    view.batch = scan.batch;
    view.width = scan.width;
    view.current = reinterpret_cast<const Real*>(scan.current);
    view.current_stride_t = scan.current_stride_t;
    view.current_stride_b = scan.current_stride_b;
    view.membrane = source<Real>(scan.membrane, 0);
    view.gain = source<Real>(scan.gain, 1);
    view.synapse = source<Real>(scan.synapse, 0);
    view.leak = source<Real>(scan.leak, 0);
    view.threshold = scan.fires ? source<Real>(scan.threshold, infinity) : Source<Real>{nullptr, 0, infinity};
    view.reset = source<Real>(scan.reset, 0);
    view.graded = source<Real>(scan.graded, 1);
    view.m0 = reinterpret_cast<const Real*>(scan.m0);
    view.i0 = reinterpret_cast<const Real*>(scan.i0);
    view.spikes = scan.spikes_bytes ? nullptr : writable(scan.spikes);
    view.spike_bytes = scan.spikes_bytes ? reinterpret_cast<uint8_t*>(scan.spikes) : nullptr;
    view.spikes_stride_t = scan.spikes_stride_t;
    view.spikes_stride_b = scan.spikes_stride_b;
    view.membrane_out = writable(scan.membrane_out);
    view.membrane_stride_t = scan.membrane_stride_t;
    view.membrane_stride_b = scan.membrane_stride_b;
    view.u_out = writable(scan.u_out);
    view.u_stride_t = scan.u_stride_t;
    view.u_stride_b = scan.u_stride_b;
    view.m_last = writable(scan.m_last);
    view.i_last = writable(scan.i_last);
    return view;
}

// Chooses the compiled structure and precision, then launches.
struct Launch {
    const Scan& scan;

    template <Integrator integrator, int poles, Pre pre, Post post>
    int run() const {
        typedef Neuron<integrator, poles, pre, post> N;
        if constexpr (N::is_supported)
            return scan.dtype == float64 ? launch<N, double>() : launch<N, float>();
        else
            return -1;
    }

    template <class N, class Real>
    int launch() const {
        const ScanView<Real> view = view_of<Real>(scan);
        const unsigned threads = 128;
        const unsigned blocks = unsigned((view.batch * view.width + threads - 1) / threads);
        SB_LAUNCH((neuron_scan<N, Real>), blocks, threads, reinterpret_cast<cudaStream_t>(scan.stream), view);
        return int(cudaGetLastError());
    }
};

}  // namespace SPARSE_BACKEND_VARIANT

int launch_neuron_scan(const Scan& scan) {
    return SPARSE_BACKEND_VARIANT::with_structure(Integrator(scan.integrator), scan.poles, Pre(scan.pre),
                                                  Post(scan.post), SPARSE_BACKEND_VARIANT::Launch{scan});
}

}  // namespace sparse_backend
