// Python module sparse_backend._cuda: device addresses, sizes and a stream in; importing it touches no device.
#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "common/bind_layer.hpp"
#include "cuda/scan.hpp"

using namespace sparse_backend;

namespace {

void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

void check_scan(const Scan& scan) {
    require(scan.dtype == float32 || scan.dtype == float64, "dtype must be FLOAT32 or FLOAT64");
    require(scan.steps > 0 && scan.batch > 0 && scan.width > 0, "steps, batch and width must be positive");
    require(scan.current, "current=0: the scan needs a dense current");
    require(scan.membrane.address, "membrane=0: every neuron needs its membrane coefficient");
    require(scan.threshold.address || !scan.fires, "threshold=0: a neuron that fires needs a threshold");
    require(scan.fires || (scan.pre == 0 && scan.post == 0), "fires=False: without spikes there is no reset");
    require(scan.integrator >= 0 && scan.integrator <= 1 && (scan.poles == 1 || scan.poles == 2) && scan.pre >= 0 &&
                scan.pre <= 3 && scan.post >= 0 && scan.post <= 4,
            "integrator, poles, pre, post: not a known structure");
}

void neuron_scan(const Scan& scan) {
    check_scan(scan);
    const int status = launch_neuron_scan(scan);
    require(status != -1, "integrator, poles, pre, post: no kernel has this structure");
    if (status != int(cudaSuccess))
        throw std::runtime_error(std::string("neuron_scan: ") + cudaGetErrorString(cudaError_t(status)));
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "CUDA kernels of sparse_backend; device addresses, sizes and a stream handle in.";
    m.attr("FLOAT32") = int(float32);
    m.attr("FLOAT64") = int(float64);
    m.attr("ARCHITECTURES") = SPARSE_BACKEND_ARCHITECTURES;
    py::class_<Layer> layer = bind_layer(m);
    py::class_<Scan, Layer>(m, "Scan", py::module_local(), "Arguments of neuron_scan.")
        .def(py::init<>())
        .def_readwrite("stream", &Scan::stream)
        .def_readwrite("spikes_bytes", &Scan::spikes_bytes)
        .def_readwrite("u_out", &Scan::u_out)
        .def_readwrite("u_stride_t", &Scan::u_stride_t)
        .def_readwrite("u_stride_b", &Scan::u_stride_b);
    m.def("scan", [](const py::kwargs& fields) { return from_keywords<Scan>(fields); });
    m.def("neuron_scan", &neuron_scan, py::arg("scan"), py::call_guard<py::gil_scoped_release>());
}
