#include "modes.hpp"

#ifdef __linux__
#include <dlfcn.h>
#endif

#include <cstdint>
#include <vector>

#include "recorder.hpp"

namespace recording {
namespace {

struct Mode {
    Question question;
    PyObject* argument;
};

using Modes = std::vector<Mode>;
Modes with_keys, others;
bool keys_suffice = false;

// c10::impl::raw_local_dispatch_key_set of the thread: the included and the excluded keys, each as the difference from
// the default.
const std::uint64_t* find_keys() {
#ifdef __linux__
    static void* const library = dlopen("libc10.so", RTLD_LAZY | RTLD_NOLOAD);
    if (library) return static_cast<std::uint64_t*>(dlsym(library, "_ZN3c104impl26raw_local_dispatch_key_setE"));
#endif
    return nullptr;
}

bool is_nothing(PyObject* value) {
    if (value == Py_None || value == Py_False) return true;
    return PyLong_Check(value) && PyObject_IsTrue(value) == 0;
}

bool take(Modes& modes, PyObject* questions) {
    Modes taken;
    for (Py_ssize_t index = 0; PyTuple_Check(questions) && index < PyTuple_GET_SIZE(questions); ++index) {
        PyObject *function, *argument = nullptr;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(questions, index), "O|O", &function, &argument)) return false;
        Py_XINCREF(argument);
        taken.push_back({Question("mode"), argument});
        taken.back().question.ask_of(function);
    }
    modes = std::move(taken);
    return true;
}

bool none_is_on(const Modes& modes) {
    for (const Mode& mode : modes) {
        const Ref answer = mode.argument ? mode.question.answer(mode.argument) : mode.question.answer();
        if (!answer || !is_nothing(answer.get())) return false;
    }
    return true;
}

}  // namespace

bool keys_at_rest() {
    static thread_local const std::uint64_t* const keys = find_keys();
    return keys && !(keys[0] | keys[1]);
}

bool take_modes(PyObject* key_modes, PyObject* other_modes, PyObject* keys_tell) {
    keys_suffice = keys_tell == Py_True;
    return take(with_keys, key_modes) && take(others, other_modes);
}

bool no_mode_matters() { return ((keys_suffice && keys_at_rest()) || none_is_on(with_keys)) && none_is_on(others); }

bool same_modes(PyObject* segment) {
    const Ref grad = grad_enabled.answer();
    if (!grad || !segment_grad.is(grad, segment)) return false;
    if (grad.get() == Py_True) return true;
    const Ref inference = inference_enabled.answer();
    return inference && segment_inference.is(inference, segment);
}

}  // namespace recording
