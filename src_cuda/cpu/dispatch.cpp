#include "dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace sparse_backend {

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

// Widest first.
std::vector<Choice> choices() {
    std::vector<Choice> found;
#if defined(SPARSE_BACKEND_X86)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("f16c");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    if (v4) found.push_back({"x86-64-v4", &x86_64_v4::kernel_set});
    if (v3) found.push_back({"x86-64-v3", &x86_64_v3::kernel_set});
    found.push_back({"x86-64", &x86_64::kernel_set});
#else
    found.push_back({"generic", &generic::kernel_set});
#endif
    return found;
}

const std::vector<Choice>& known() {
    static const std::vector<Choice> list = choices();
    return list;
}

const Choice& find(const std::string& name) {
    if (name.empty() || name == "auto") return known().front();
    std::string names;
    for (const Choice& choice : known()) {
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
    for (const Choice& choice : known()) names.push_back(choice.name);
    return names;
}

void force_isa(const std::string& name) { active().store(&find(name)); }

}  // namespace sparse_backend
