#include "modes.hpp"

#include <vector>

#include "recorder.hpp"

namespace recording {
namespace {

struct Mode {
    Question question;
    PyObject* argument;
};

std::vector<Mode> modes;

bool is_nothing(PyObject* value) {
    if (value == Py_None || value == Py_False) return true;
    return PyLong_Check(value) && PyObject_IsTrue(value) == 0;
}

}  // namespace

bool take_modes(PyObject* questions) {
    std::vector<Mode> taken;
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

bool no_mode_matters() {
    for (const Mode& mode : modes) {
        const Ref answer = mode.argument ? mode.question.answer(mode.argument) : mode.question.answer();
        if (!answer || !is_nothing(answer.get())) return false;
    }
    return true;
}

bool same_modes(PyObject* segment) {
    const Ref grad = grad_enabled.answer();
    if (!grad || !segment_grad.is(grad, segment)) return false;
    if (grad.get() == Py_True) return true;
    const Ref inference = inference_enabled.answer();
    return inference && segment_inference.is(inference, segment);
}

}  // namespace recording
