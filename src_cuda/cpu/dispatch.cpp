#include "dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "tile_check.hpp"

namespace sparse_backend {

#if defined(SPARSE_BACKEND_AMX)
namespace x86_64_amx {
extern const Product<float> tile_product;
}
#endif
#if defined(SPARSE_BACKEND_X86)
namespace x86_64_v4 {
extern const KernelSet kernel_set;
}
namespace x86_64_v3 {
extern const KernelSet kernel_set;
}
namespace x86_64 {
extern const KernelSet kernel_set;
}
#else
namespace generic {
extern const KernelSet kernel_set;
}
#endif

namespace {

struct Choice {
    std::string name;
    const KernelSet* set;
};

struct Known {
    std::vector<Choice> choices;  // widest first
    std::string warning;
};

#if defined(SPARSE_BACKEND_AMX)
// x86-64-v4 with float32 products by tiles.
const KernelSet& tile_set() {
    static const KernelSet set = [] {
        KernelSet changed = x86_64_v4::kernel_set;
        changed.float32.product = x86_64_amx::tile_product;
        return changed;
    }();
    return set;
}

void add_tiles(Known& known) {
    if (!tiles_supported()) return;
    if (products_agree(tile_set().float32.product, x86_64_v4::kernel_set.float32.product))
        known.choices.push_back({"x86-64-amx", &tile_set()});
    else
        known.warning =
            "sparse_backend: matrix products by AMX tiles are wrong on this processor, so AVX-512 is used "
            "instead. Results are right; please report the processor.";
}
#endif

Known find_known() {
    Known known;
    std::vector<Choice>& found = known.choices;
#if defined(SPARSE_BACKEND_X86)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("f16c");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
#if defined(SPARSE_BACKEND_AMX)
    if (v4) add_tiles(known);
#endif
    if (v4) found.push_back({"x86-64-v4", &x86_64_v4::kernel_set});
    if (v3) found.push_back({"x86-64-v3", &x86_64_v3::kernel_set});
    found.push_back({"x86-64", &x86_64::kernel_set});
#else
    found.push_back({"generic", &generic::kernel_set});
#endif
    return known;
}

const Known& known() {
    static const Known found = find_known();
    return found;
}

const Choice& find(const std::string& name) {
    if (name.empty() || name == "auto") return known().choices.front();
    std::string names;
    for (const Choice& choice : known().choices) {
        if (choice.name == name) return choice;
        names += (names.empty() ? "" : ", ") + choice.name;
    }
    throw std::invalid_argument("isa='" + name + "' must be auto or one of " + names + " on this processor");
}

std::atomic<const Choice*>& active() {
    static std::atomic<const Choice*> choice{[] {
        const char* wanted = std::getenv("SPARSE_BACKEND_ISA");
        return &find(wanted ? wanted : "auto");
    }()};
    return choice;
}

}  // namespace

const KernelSet& kernels() { return *active().load()->set; }

std::string current_isa() { return active().load()->name; }

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Choice& choice : known().choices) names.push_back(choice.name);
    return names;
}

std::string dispatch_warning() { return known().warning; }

void force_isa(const std::string& name) { active().store(&find(name)); }

}  // namespace sparse_backend
