#include "modes.hpp"

#ifdef __linux__
#include <dlfcn.h>
#endif

#include <cstdint>
#include <cstring>
#include <vector>

#include "recorder.hpp"

namespace recording {
namespace {

struct Mode {
    Question question;
    PyObject* argument;
};

using Modes = std::vector<Mode>;
Modes modes;
bool a_look_suffices = false;

// What torch 2 keeps of a thread's modes, found by the names of its symbols. torch_private.a_look_tells asks for the
// version first, and tries out under each mode whether it is still so.
class Look {
  public:
    Look() {
#ifdef __linux__
        keys_ = find<const std::uint64_t>("libc10.so", "_ZN3c104impl26raw_local_dispatch_key_setE");
        anomaly_ = find<const bool>(torch, "_ZN5torch8autograd11AnomalyMode8_enabledE");
        functions_ = find<std::int64_t()>(torch, "_ZN2at4impl22PythonTorchFunctionTLS9stack_lenEv");
        if (auto* hooks = find<const char*()>(torch, "_ZN2at23SavedTensorDefaultHooks13get_tls_stateEv"))
            hooks_ = hooks();
#endif
    }

    bool at_rest() const {
        return keys_ && anomaly_ && functions_ && hooks_ && !(keys_[0] | keys_[1]) && !*anomaly_ && !functions_() &&
               no_hooks();
    }

  private:
    static constexpr const char* torch = "libtorch_cpu.so";

    // Null unless the library is in use and has it.
    template <class T>
    static T* find(const char* library, const char* symbol) {
#ifdef __linux__
        if (void* const handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD)) {
            T* const found = reinterpret_cast<T*>(dlsym(handle, symbol));
            dlclose(handle);
            return found;
        }
#endif
        return nullptr;
    }

    // The state begins with a std::deque: its first and its next element, each behind a word or more.
    bool no_hooks() const {
        const char *first, *next;
        std::memcpy(&first, hooks_ + 2 * sizeof(void*), sizeof first);
        std::memcpy(&next, hooks_ + 6 * sizeof(void*), sizeof next);
        return first == next;
    }

    // The included and the excluded keys, each as the difference from the default; of this thread.
    const std::uint64_t* keys_ = nullptr;
    const bool* anomaly_ = nullptr;
    std::int64_t (*functions_)() = nullptr;
    const char* hooks_ = nullptr;  // of this thread
};

bool is_nothing(PyObject* value) {
    if (value == Py_None || value == Py_False) return true;
    return PyLong_Check(value) && PyObject_IsTrue(value) == 0;
}

bool take(Modes& into, PyObject* questions) {
    Modes taken;
    for (Py_ssize_t index = 0; PyTuple_Check(questions) && index < PyTuple_GET_SIZE(questions); ++index) {
        PyObject *function, *argument = nullptr;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(questions, index), "O|O", &function, &argument)) return false;
        Py_XINCREF(argument);
        taken.push_back({Question("mode"), argument});
        taken.back().question.ask_of(function);
    }
    into = std::move(taken);
    return true;
}

bool none_is_on(const Modes& of) {
    for (const Mode& mode : of) {
        const Ref answer = mode.argument ? mode.question.answer(mode.argument) : mode.question.answer();
        if (!answer || !is_nothing(answer.get())) return false;
    }
    return true;
}

}  // namespace

bool at_rest() {
    static thread_local const Look look;
    return look.at_rest();
}

bool take_modes(PyObject* questions, PyObject* tells) {
    a_look_suffices = tells == Py_True;
    return take(modes, questions);
}

bool no_mode_matters() { return (a_look_suffices && at_rest()) || none_is_on(modes); }

bool same_modes(PyObject* segment) {
    const Ref grad = grad_enabled.answer();
    if (!grad || !segment_grad.is(grad, segment)) return false;
    if (grad.get() == Py_True) return true;
    const Ref inference = inference_enabled.answer();
    return inference && segment_inference.is(inference, segment);
}

}  // namespace recording
