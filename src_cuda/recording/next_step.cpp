#include "next_step.hpp"

#include "recorder.hpp"
#include "step.hpp"
#include "watch.hpp"

namespace recording {
namespace {

// The stream among `children` that belongs to the module; mostly it is the only one.
Ref find(PyObject* children, PyObject* module, const Known& type) {
    PyObject *key = nullptr, *stream = nullptr;
    Py_ssize_t position = 0;
    if (PyDict_GET_SIZE(children) == 1 && PyDict_Next(children, &position, &key, &stream)) {
        if (!PyLong_CheckExact(key) || PyLong_AsVoidPtr(key) != module) return Ref();
    } else {
        const Ref identity(PyLong_FromVoidPtr(module));
        stream = identity ? PyDict_GetItemWithError(children, identity.get()) : nullptr;
    }
    return stream && is_type(stream, type.object) ? Ref::borrow(stream) : Ref();
}

// Whether it is the calling thread's segment, and open.
bool is_mine(PyObject* segment) {
    return segment_closed.of(segment) == Py_False &&
           PyLong_AsUnsignedLong(segment_thread.of(segment)) == PyThread_get_thread_ident();
}

struct Found {
    Ref segment, stream;
    explicit operator bool() const { return static_cast<bool>(stream); }
};

// The module's stream, if `input` is an open step of the thread's segment and this stream's next.
Found fed_by(PyObject* input, PyObject* module, const Known& type) {
    const Ref attributes = attributes_of(input);
    PyObject* source = attributes ? name_source.in(attributes.get()) : nullptr;
    if (!source || source == Py_None) return {};
    Ref segment = Ref::borrow(stream_segment.of(source));
    if (segment.get() == Py_None || !is_mine(segment.get()) || !is_latest(input, source, 0)) return {};
    Ref stream = find(stream_children.of(source), module, type);
    if (!stream || stream_count.number(stream.get()) + 1 != stream_count.number(source)) return {};
    return {std::move(segment), std::move(stream)};
}

// A real input that goes on with the last run of its stream's inputs, as Run.goes_on says.
class OneMoreInput {
  public:
    // False unless it is one more view of the same tensor, as far on from the last one as that from the one before, and
    // `steps` of them are there.
    bool prepare(PyObject* inputs, PyObject* tensor, Py_ssize_t steps) {
        if (inputs_requires_grad.of(inputs) != Py_False || inputs_base.of(inputs) == Py_None) return false;
        Ref base = base_of.answer(tensor);
        if (base.get() == Py_None) base = Ref::borrow(tensor);
        if (!base || !inputs_base.is(base, inputs) || !lies_at(base.get(), inputs_place.of(inputs))) return false;
        const Ref requires_grad = requires_grad_of.answer(tensor), dtype = dtype_of.answer(tensor);
        if (requires_grad.get() != Py_False || !dtype || !inputs_dtype.is(dtype, inputs)) return false;
        const Ref shape = shape_of.answer(tensor);
        if (!shape || PyObject_RichCompareBool(shape.get(), inputs_shape.of(inputs), Py_EQ) != 1) return false;
        const Ref negated = is_neg_of.answer(tensor);
        if (negated.get() != Py_False) return false;
        const Ref offset = offset_of.answer(tensor), strides = strides_of.answer(tensor);
        PyObject* runs = inputs_runs.of(inputs);
        if (!offset || !strides || !PyList_GET_SIZE(runs)) return false;
        run_ = Ref::borrow(PyList_GET_ITEM(runs, PyList_GET_SIZE(runs) - 1));
        if (run_alias.of(run_.get()) != inputs_alias.of(inputs) ||
            PyObject_RichCompareBool(strides.get(), run_strides.of(run_.get()), Py_EQ) != 1)
            return false;
        const Py_ssize_t count = run_count.number(run_.get());
        if (run_first.number(run_.get()) + count != steps) return false;
        const Py_ssize_t distance = PyLong_AsSsize_t(offset.get()) - run_start.number(run_.get());
        if (count > 1 && distance != count * run_spacing.number(run_.get())) return false;
        if (count == 1 && !(spacing_ = Ref(PyLong_FromSsize_t(distance)))) return false;
        return static_cast<bool>(count_ = Ref(PyLong_FromSsize_t(count + 1)));
    }

    void commit() {
        if (!run_) return;
        run_count.set(run_.get(), std::move(count_));
        if (spacing_) run_spacing.set(run_.get(), std::move(spacing_));
    }

  private:
    Ref run_, count_, spacing_;
};

// The output of a step whose stream and input are found; `input` is empty for a recorded one.
PyObject* take_feed(PyObject* module, PyObject* stream, PyObject* segment, OneMoreInput input = {}) {
    if (!undisturbed(module, stream, segment)) return nullptr;
    Step step(stream, segment);
    if (!step.prepare()) return nullptr;
    input.commit();
    step.commit();
    return step.take(0).release();
}

// The same where the input is real.
PyObject* feed_real(PyObject* module, PyObject* input) {
    const Ref segment(PyObject_GetAttr(thread.object, name_segment.object));
    if (!segment || segment.get() == Py_None) return nullptr;
    const Ref stream = find(segment_entries.of(segment.get()), module, feed_stream);
    if (!stream) return nullptr;
    const Py_ssize_t steps = stream_count.number(stream.get());
    if (steps >= segment_limit.number(segment.get())) return nullptr;
    PyObject* inputs = stream_source.of(stream.get());
    if (!is_type(inputs, inputs_type.object)) return nullptr;
    OneMoreInput captured;
    if (!captured.prepare(inputs, input, steps)) return nullptr;
    return take_feed(module, stream.get(), segment.get(), std::move(captured));
}

}  // namespace

PyObject* next_feed(PyObject* module, PyObject* input) {
    if (is_type(input, plain_tensor.object)) return feed_real(module, input);
    if (!is_type(input, deferred.object)) return nullptr;
    const Found found = fed_by(input, module, feed_stream);
    return found ? take_feed(module, found.stream.get(), found.segment.get()) : nullptr;
}

PyObject* next_step(PyObject* module, PyObject* input, PyObject* state) {
    if (!is_type(input, deferred.object)) return nullptr;
    const Found found = fed_by(input, module, neuron_stream);
    if (!found) return nullptr;
    PyObject* stream = found.stream.get();
    const bool several = PyTuple_Check(state);
    const Py_ssize_t states = several ? PyTuple_GET_SIZE(state) : 1;
    if (states + 1 != PyTuple_GET_SIZE(stream_wrappers.of(stream))) return nullptr;
    for (Py_ssize_t index = 0; index < states; ++index)
        if (!is_latest(several ? PyTuple_GET_ITEM(state, index) : state, stream, index + 1)) return nullptr;
    if (!undisturbed(module, stream, found.segment.get())) return nullptr;
    Step step(stream, found.segment.get());
    Ref answer(PyTuple_New(2)), inner(several ? PyTuple_New(states) : nullptr);
    if (!answer || (several && !inner) || !step.prepare()) return nullptr;
    step.commit();
    PyTuple_SET_ITEM(answer.get(), 0, step.take(0).release());
    for (Py_ssize_t index = 0; several && index < states; ++index)
        PyTuple_SET_ITEM(inner.get(), index, step.take(index + 1).release());
    PyTuple_SET_ITEM(answer.get(), 1, several ? inner.release() : step.take(1).release());
    return answer.release();
}

}  // namespace recording
