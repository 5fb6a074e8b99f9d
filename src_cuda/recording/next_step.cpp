// Python module sparse_backend._recording: the common call of a recorded loop, "this module's next step".
//
// What record.py does in Python, condition by condition, for the calls that a loop consists of after its first steps:
// about 1 us instead of 6. Whatever is not as expected returns None, and Python decides. The recorder's objects stay
// ordinary Python objects: their slots are read where they lie. No headers of torch, no state of its own.
//
// Other threads execute a segment under its lock, which they announce by `closed`. They cannot run while C++ holds the
// GIL, so here everything that may give it up (allocation, calls into torch) comes first; then `closed` is read and the
// step is taken up in one piece.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <initializer_list>
#include <utility>

namespace {

// A strong reference; null where something is missing or a Python error is set.
class Ref {
  public:
    Ref() = default;
    explicit Ref(PyObject* stolen) : object_(stolen) {}
    Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    Ref& operator=(Ref&& other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    ~Ref() { Py_XDECREF(object_); }
    static Ref borrow(PyObject* object) {
        Py_XINCREF(object);
        return Ref(object);
    }
    PyObject* get() const { return object_; }
    PyObject* release() { return std::exchange(object_, nullptr); }
    explicit operator bool() const { return object_ != nullptr; }

  private:
    PyObject* object_ = nullptr;
};

// An entry of some class's __slots__.
struct Slot {
    const char* type;
    const char* name;
    Py_ssize_t offset = 0;

    PyObject*& of(PyObject* object) const {
        return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset);
    }
    Py_ssize_t number(PyObject* object) const { return PyLong_AsSsize_t(of(object)); }
    void set(PyObject* object, Ref value) const { Ref old(std::exchange(of(object), value.release())); }
};

Slot stream_segment{"Stream", "segment"}, stream_children{"Stream", "children"}, stream_count{"Stream", "count"};
Slot stream_wrappers{"Stream", "wrappers"}, stream_source{"Stream", "source"}, stream_watch{"Stream", "watch"};
Slot stream_whole{"Stream", "whole"}, stream_requires_grad{"Stream", "requires_grad"};
Slot segment_closed{"Segment", "closed"}, segment_grad{"Segment", "grad"}, segment_entries{"Segment", "entries"};
Slot segment_inference{"Segment", "inference"}, segment_limit{"Segment", "limit"};
Slot wrappers_older{"Wrappers", "older"}, wrappers_newer{"Wrappers", "newer"}, wrappers_blank{"Wrappers", "blank"};
Slot wrappers_escaped{"Wrappers", "escaped"}, wrappers_slot{"Wrappers", "slot"};
Slot watch_attributes{"Watch", "attributes"}, watch_tensors{"Watch", "tensors"};
Slot inputs_base{"Inputs", "_base"}, inputs_alias{"Inputs", "_alias"}, inputs_address{"Inputs", "_address"};
Slot inputs_steps{"Inputs", "_steps"}, inputs_shape{"Inputs", "shape"}, inputs_dtype{"Inputs", "dtype"};
Slot inputs_requires_grad{"Inputs", "requires_grad"};

Slot* const slots[] = {&stream_segment,   &stream_children, &stream_count,        &stream_wrappers,
                       &stream_source,    &stream_watch,    &stream_whole,        &stream_requires_grad,
                       &segment_closed,   &segment_grad,    &segment_entries,     &segment_inference,
                       &segment_limit,    &wrappers_older,  &wrappers_newer,      &wrappers_blank,
                       &wrappers_escaped, &wrappers_slot,   &watch_attributes,    &watch_tensors,
                       &inputs_base,      &inputs_alias,    &inputs_address,      &inputs_steps,
                       &inputs_shape,     &inputs_dtype,    &inputs_requires_grad};

// What `connect` is given: the recorder's classes and the functions of torch that it asks.
struct Known {
    const char* name;
    PyObject* object = nullptr;
};

Known deferred{"Deferred"}, feed_stream{"FeedStream"}, neuron_stream{"NeuronStream"}, inputs_type{"Inputs"};
Known plain_tensor{"Tensor"}, absent{"ABSENT"}, thread{"thread"}, address{"address"}, wrap{"wrap"}, link{"link"};
Known grad_enabled{"grad_enabled"}, inference_enabled{"inference_enabled"};
Known modes{"modes"}, hooks{"hooks"}, module_class{"module_class"}, module_call{"module_call"};

Known* const known[] = {&deferred, &feed_stream, &neuron_stream, &inputs_type, &plain_tensor, &absent,
                        &thread,   &address,     &wrap,          &link,        &grad_enabled, &inference_enabled,
                        &modes,    &hooks,       &module_class,  &module_call};

PyObject *name_source, *name_step, *name_slot, *name_cut, *name_segment, *name_call, *name_base, *name_shape;
PyObject *name_dtype, *name_requires_grad, *name_offset, *name_stride;
PyObject *name_init_hidden, *name_output, *name_buffers, *name_mem, *name_previous;
PyObject* module_hooks[4];

constexpr Py_ssize_t fresh = 3;  // attributes of a deferred tensor to which nothing has happened

bool is(const Ref& value, const Slot& slot, PyObject* owner) { return value.get() == slot.of(owner); }

Ref attributes_of(PyObject* object) { return Ref(PyObject_GenericGetDict(object, nullptr)); }

Ref call(PyObject* function, PyObject* argument = nullptr) {
    return Ref(argument ? PyObject_CallOneArg(function, argument) : PyObject_CallNoArgs(function));
}

bool is_nothing(PyObject* value) {
    if (value == Py_None || value == Py_False) return true;
    return PyLong_Check(value) && PyObject_IsTrue(value) == 0;
}

// Whether no mode is on under which an operation has to run at once: see torch_private.must_run_now.
bool no_mode_matters() {
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(modes.object); ++index) {
        PyObject* question = PyTuple_GET_ITEM(modes.object, index);  // (function,) or (function, argument)
        PyObject* argument = PyTuple_GET_SIZE(question) > 1 ? PyTuple_GET_ITEM(question, 1) : nullptr;
        const Ref answer = call(PyTuple_GET_ITEM(question, 0), argument);
        if (!answer || !is_nothing(answer.get())) return false;
    }
    return true;
}

// Whether nn.Module.__call__ would do nothing but call `forward`.
bool calls_forward_alone(PyObject* attributes) {
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(hooks.object); ++index)
        if (PyDict_GET_SIZE(PyTuple_GET_ITEM(hooks.object, index))) return false;
    for (PyObject* name : module_hooks) {
        PyObject* own = PyDict_GetItemWithError(attributes, name);
        if (!own || !PyDict_Check(own) || PyDict_GET_SIZE(own)) return false;
    }
    const Ref function(PyObject_GetItem(module_class.object, name_call));
    return function.get() == module_call.object;
}

bool has_address(PyObject* tensor, PyObject* expected) {
    const Ref found = call(address.object, tensor);
    return found && PyObject_RichCompareBool(found.get(), expected, Py_EQ) == 1;
}

// Whether the module is what it was when the stream began: see stream.Watch.
bool unchanged(PyObject* watch, PyObject* attributes) {
    PyObject* values = watch_attributes.of(watch);
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(values); index += 2) {
        PyObject* expected = PyTuple_GET_ITEM(values, index + 1);
        PyObject* found = PyDict_GetItemWithError(attributes, PyTuple_GET_ITEM(values, index));
        if (found ? found != expected : expected != absent.object) return false;
    }
    PyObject* tensors = watch_tensors.of(watch);
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(tensors); index += 5) {
        PyObject *place = PyTuple_GET_ITEM(tensors, index), *tensor = PyTuple_GET_ITEM(tensors, index + 2);
        if (place != Py_None) {
            PyObject* holder = PyDict_GetItemWithError(attributes, place);
            if (!holder || !PyDict_Check(holder)) return false;
            if (PyDict_GetItemWithError(holder, PyTuple_GET_ITEM(tensors, index + 1)) != tensor) return false;
        }
        if (tensor == Py_None) continue;
        if (!has_address(tensor, PyTuple_GET_ITEM(tensors, index + 3))) return false;
        const Ref requires_grad(PyObject_GetAttr(tensor, name_requires_grad));
        if (requires_grad.get() != PyTuple_GET_ITEM(tensors, index + 4)) return false;
    }
    return true;
}

// Whether the gradient and inference modes are those of the recording.
bool same_modes(PyObject* segment) {
    const Ref grad = call(grad_enabled.object);
    if (!grad || !is(grad, segment_grad, segment)) return false;
    if (grad.get() == Py_True) return true;
    const Ref inference = call(inference_enabled.object);
    return inference && is(inference, segment_inference, segment);
}

// Whether `tensor` is what the stream's last step returned in this slot, not detached since.
bool is_latest(PyObject* tensor, PyObject* stream, Py_ssize_t slot) {
    PyObject* wrappers = stream_wrappers.of(stream);
    if (slot >= PyTuple_GET_SIZE(wrappers) || Py_TYPE(tensor) != reinterpret_cast<PyTypeObject*>(deferred.object))
        return false;
    if (wrappers_newer.of(PyTuple_GET_ITEM(wrappers, slot)) != tensor) return false;
    const Ref attributes = attributes_of(tensor);
    return attributes && !PyDict_GetItemWithError(attributes.get(), name_cut);
}

bool nobody_holds(PyObject* wrapper, PyObject* attributes) {
    const Py_ssize_t weak = Py_TYPE(wrapper)->tp_weaklistoffset;
    return Py_REFCNT(wrapper) == 1 && PyDict_GET_SIZE(attributes) == fresh &&
           !*reinterpret_cast<PyObject**>(reinterpret_cast<char*>(wrapper) + weak);
}

Ref make(PyObject* wrappers, PyObject* stream, PyObject* step) {
    const bool linked = stream_requires_grad.of(stream) == Py_True;
    PyObject* arguments[] = {linked ? wrappers_blank.of(wrappers) : deferred.object,
                             linked ? deferred.object : wrappers_blank.of(wrappers)};
    Ref made(PyObject_Vectorcall(linked ? link.object : wrap.object, arguments, 2, nullptr));
    if (!made) return made;
    const Ref attributes = attributes_of(made.get());
    if (!attributes || PyDict_SetItem(attributes.get(), name_source, stream) < 0 ||
        PyDict_SetItem(attributes.get(), name_step, step) < 0 ||
        PyDict_SetItem(attributes.get(), name_slot, wrappers_slot.of(wrappers)) < 0)
        return Ref();
    return made;
}

// The deferred tensor of the next step, as Wrappers.take; `Step::commit` makes it the newer one.
Ref prepare(PyObject* wrappers, PyObject* stream, PyObject* step) {
    PyObject* older = wrappers_older.of(wrappers);
    if (older != Py_None) {
        const Ref attributes = attributes_of(older);
        if (!attributes) return Ref();
        if (nobody_holds(older, attributes.get()))
            return PyDict_SetItem(attributes.get(), name_step, step) < 0 ? Ref() : Ref::borrow(older);
        const Ref reference(PyWeakref_NewRef(older, nullptr));
        if (!reference || PyList_Append(wrappers_escaped.of(wrappers), reference.get()) < 0) return Ref();
    }
    return make(wrappers, stream, step);
}

// One more step of a stream: everything that it needs, and then all of it at once.
class Step {
  public:
    Step(PyObject* stream, PyObject* segment) : stream_(stream), segment_(segment) {}

    bool prepare() {
        PyObject* wrappers = stream_wrappers.of(stream_);
        count_ = PyTuple_GET_SIZE(wrappers);
        const Py_ssize_t step = stream_count.number(stream_);
        const Ref index = Ref::borrow(stream_count.of(stream_));
        next_ = Ref(PyLong_FromSsize_t(step + 1));
        if (count_ > 3 || !next_) return false;
        for (Py_ssize_t slot = 0; slot < count_; ++slot) {
            made_[slot] = ::prepare(PyTuple_GET_ITEM(wrappers, slot), stream_, index.get());
            if (!made_[slot]) return false;
        }
        return segment_closed.of(segment_) == Py_False;
    }

    void commit() {
        PyObject* wrappers = stream_wrappers.of(stream_);
        Ref dropped[3];
        for (Py_ssize_t slot = 0; slot < count_; ++slot) {
            PyObject* pair = PyTuple_GET_ITEM(wrappers, slot);
            dropped[slot] = Ref(std::exchange(wrappers_older.of(pair), wrappers_newer.of(pair)));
            wrappers_newer.of(pair) = Ref::borrow(made_[slot].get()).release();
        }
        stream_count.set(stream_, std::move(next_));
    }

    Ref take(Py_ssize_t slot) { return std::move(made_[slot]); }
    Py_ssize_t slots() const { return count_; }

  private:
    PyObject *stream_, *segment_;
    Py_ssize_t count_ = 0;
    Ref made_[3], next_;
};

// The stream among `children` that belongs to the module.
Ref find(PyObject* children, PyObject* module, const Known& type) {
    const Ref key(PyLong_FromVoidPtr(module));
    PyObject* stream = key ? PyDict_GetItemWithError(children, key.get()) : nullptr;
    return stream && Py_TYPE(stream) == reinterpret_cast<PyTypeObject*>(type.object) ? Ref::borrow(stream) : Ref();
}

// The module's stream, if `input` is an open step of `segment` and this stream's next.
Ref fed_by(PyObject* input, PyObject* segment, PyObject* module, const Known& type) {
    const Ref attributes = attributes_of(input);
    PyObject* source = attributes ? PyDict_GetItemWithError(attributes.get(), name_source) : nullptr;
    if (!source || source == Py_None || stream_segment.of(source) != segment || !is_latest(input, source, 0))
        return Ref();
    Ref stream = find(stream_children.of(source), module, type);
    return stream && stream_count.number(stream.get()) + 1 == stream_count.number(source) ? std::move(stream) : Ref();
}

// The entry of a real input in its stream's list, as Inputs.append makes it; null unless it is one more view of the
// same tensor as before.
Ref one_more_input(PyObject* inputs, PyObject* tensor) {
    if (inputs_requires_grad.of(inputs) != Py_False || inputs_base.of(inputs) == Py_None) return Ref();
    Ref base(PyObject_GetAttr(tensor, name_base));
    if (base.get() == Py_None) base = Ref::borrow(tensor);
    if (!base || !is(base, inputs_base, inputs) || !has_address(base.get(), inputs_address.of(inputs))) return Ref();
    const Ref requires_grad(PyObject_GetAttr(tensor, name_requires_grad)), dtype(PyObject_GetAttr(tensor, name_dtype));
    if (!requires_grad || requires_grad.get() != Py_False || !dtype || !is(dtype, inputs_dtype, inputs)) return Ref();
    const Ref shape(PyObject_GetAttr(tensor, name_shape));
    if (!shape || PyObject_RichCompareBool(shape.get(), inputs_shape.of(inputs), Py_EQ) != 1) return Ref();
    const Ref offset(PyObject_CallMethodNoArgs(tensor, name_offset)),
        strides(PyObject_CallMethodNoArgs(tensor, name_stride));
    if (!offset || !strides) return Ref();
    return Ref(PyTuple_Pack(3, inputs_alias.of(inputs), offset.get(), strides.get()));
}

// What holds for every call: plain, unhooked, nothing changed, under the modes of the recording.
bool undisturbed(PyObject* module, PyObject* stream, PyObject* segment) {
    PyObject* watch = stream_watch.of(stream);
    if (watch == Py_None || stream_whole.of(stream) != Py_False) return false;
    const Ref attributes = attributes_of(module);
    return attributes && calls_forward_alone(attributes.get()) && unchanged(watch, attributes.get()) &&
           same_modes(segment) && no_mode_matters();
}

// The output of a Linear's next step; null, with or without a Python error, where it is not simply that.
PyObject* feed(PyObject* module, PyObject* input) {
    const Ref segment(PyObject_GetAttr(thread.object, name_segment));
    if (!segment || segment.get() == Py_None) return nullptr;
    Ref stream, captured;
    if (Py_TYPE(input) == reinterpret_cast<PyTypeObject*>(deferred.object)) {
        stream = fed_by(input, segment.get(), module, feed_stream);
    } else if (Py_TYPE(input) == reinterpret_cast<PyTypeObject*>(plain_tensor.object)) {
        stream = find(segment_entries.of(segment.get()), module, feed_stream);
        if (!stream || stream_count.number(stream.get()) >= segment_limit.number(segment.get())) return nullptr;
        PyObject* inputs = stream_source.of(stream.get());
        if (Py_TYPE(inputs) != reinterpret_cast<PyTypeObject*>(inputs_type.object)) return nullptr;
        captured = one_more_input(inputs, input);
        if (!captured) return nullptr;
    }
    if (!stream || !undisturbed(module, stream.get(), segment.get())) return nullptr;
    Step step(stream.get(), segment.get());
    if (!step.prepare()) return nullptr;
    if (captured && PyList_Append(inputs_steps.of(stream_source.of(stream.get())), captured.get()) < 0) return nullptr;
    step.commit();
    return step.take(0).release();
}

// The same for a neuron: (output, new state); `state` is a tensor, or a tuple of them.
PyObject* neuron(PyObject* module, PyObject* input, PyObject* state) {
    if (Py_TYPE(input) != reinterpret_cast<PyTypeObject*>(deferred.object)) return nullptr;
    const Ref segment(PyObject_GetAttr(thread.object, name_segment));
    if (!segment || segment.get() == Py_None) return nullptr;
    const Ref stream = fed_by(input, segment.get(), module, neuron_stream);
    if (!stream) return nullptr;
    const bool several = PyTuple_Check(state);
    const Py_ssize_t states = several ? PyTuple_GET_SIZE(state) : 1;
    if (states + 1 != PyTuple_GET_SIZE(stream_wrappers.of(stream.get()))) return nullptr;
    for (Py_ssize_t index = 0; index < states; ++index)
        if (!is_latest(several ? PyTuple_GET_ITEM(state, index) : state, stream.get(), index + 1)) return nullptr;
    if (!undisturbed(module, stream.get(), segment.get())) return nullptr;
    Step step(stream.get(), segment.get());
    Ref answer(PyTuple_New(2)), inner(several ? PyTuple_New(states) : nullptr);
    if (!answer || (several && !inner) || !step.prepare()) return nullptr;
    step.commit();
    PyTuple_SET_ITEM(answer.get(), 0, step.take(0).release());
    for (Py_ssize_t index = 0; several && index < states; ++index)
        PyTuple_SET_ITEM(inner.get(), index, step.take(index + 1).release());
    PyTuple_SET_ITEM(answer.get(), 1, several ? inner.release() : step.take(1).release());
    return answer.release();
}

// None, for "not the common case": Python goes through all cases, and raises what has to be raised.
PyObject* or_none(PyObject* taken) {
    if (taken) return taken;
    PyErr_Clear();
    Py_RETURN_NONE;
}

PyObject* next_feed(PyObject*, PyObject* const* arguments, Py_ssize_t count, PyObject* keywords) {
    if (count != 2 || keywords) Py_RETURN_NONE;
    return or_none(feed(arguments[0], arguments[1]));
}

PyObject* next_step(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    if (count != 3) Py_RETURN_NONE;
    return or_none(neuron(arguments[0], arguments[1], arguments[2]));
}

// Calls of an accelerated class without a Python frame: `tp_call` itself asks for the ordinary step, and leaves all
// else to the class's `__call__`, which does the same in Python. Python puts its own function back into the slot when
// `__call__` is assigned to, and gives every subclass its own; a compiler that traces a call looks at `__call__`
// alone. Whoever replaced `next_feed` or `next_step` where `__call__` finds them is obeyed.
struct Direct {
    ternaryfunc call = nullptr;  // what the class's slot held
    PyObject* names = nullptr;   // the globals of `__call__`
    PyObject* asked = nullptr;   // the function of this module that it asks ...
    PyObject* name = nullptr;    // ... by this name

    bool stands() const { return PyDict_GetItemWithError(names, name) == asked; }
};

Direct direct_feed, direct_neuron;
PyObject *runtime_name, *recorded;  // of a neuron's runtime, and what its `previous` becomes

bool without(PyObject* keywords) { return !keywords || !PyDict_GET_SIZE(keywords); }

PyObject* call_feed(PyObject* self, PyObject* arguments, PyObject* keywords) {
    if (PyTuple_GET_SIZE(arguments) == 1 && without(keywords) && direct_feed.stands()) {
        if (PyObject* taken = feed(self, PyTuple_GET_ITEM(arguments, 0))) return taken;
        PyErr_Clear();
    }
    return direct_feed.call(self, arguments, keywords);
}

// A neuron whose state is its buffer `mem` too, and whose options say what it takes and returns. Null without an error
// where the step is no ordinary one.
PyObject* ordinary_step(PyObject* self, PyObject* arguments) {
    const Ref attributes = attributes_of(self);
    if (!attributes) return PyErr_Clear(), nullptr;
    PyObject* hidden = PyDict_GetItemWithError(attributes.get(), name_init_hidden);
    PyObject* buffers = PyDict_GetItemWithError(attributes.get(), name_buffers);
    PyObject* runtime = PyDict_GetItemWithError(attributes.get(), runtime_name);
    PyObject* output = PyDict_GetItemWithError(attributes.get(), name_output);
    if ((hidden != Py_True && hidden != Py_False) || !buffers || !PyDict_Check(buffers) || !runtime) return nullptr;
    const bool keeps = hidden == Py_True;
    if ((keeps && output != Py_True && output != Py_False) || PyTuple_GET_SIZE(arguments) != 2 - keeps) return nullptr;
    PyObject* state = keeps ? PyDict_GetItemWithError(buffers, name_mem) : PyTuple_GET_ITEM(arguments, 1);
    if (!state || PyTuple_Check(state)) return nullptr;
    const Ref held_buffers = Ref::borrow(buffers), held_runtime = Ref::borrow(runtime), held_state = Ref::borrow(state);
    PyObject* taken = neuron(self, PyTuple_GET_ITEM(arguments, 0), state);
    PyErr_Clear();
    if (!taken) return nullptr;
    Ref answer(taken);
    // The step is recorded: from here on nothing but a lack of memory can fail, and that is an error.
    if (PyDict_SetItem(buffers, name_mem, PyTuple_GET_ITEM(taken, 1)) < 0 ||
        PyObject_SetAttr(runtime, name_previous, recorded) < 0)
        return nullptr;
    if (keeps && output == Py_False) return Ref::borrow(PyTuple_GET_ITEM(taken, 0)).release();
    return answer.release();
}

PyObject* call_neuron(PyObject* self, PyObject* arguments, PyObject* keywords) {
    if (without(keywords) && direct_neuron.stands()) {
        PyObject* taken = ordinary_step(self, arguments);
        if (taken || PyErr_Occurred()) return taken;
    }
    return direct_neuron.call(self, arguments, keywords);
}

bool take_calls(PyTypeObject* type, PyObject* names, const char* name, Direct& direct, ternaryfunc call) {
    if (!(type->tp_flags & Py_TPFLAGS_HEAPTYPE) || !PyDict_Check(names)) {
        PyErr_SetString(PyExc_TypeError, "a class made in Python and its module's globals are needed");
        return false;
    }
    Ref found(PyUnicode_InternFromString(name));
    PyObject* asked = found ? PyDict_GetItemWithError(names, found.get()) : nullptr;
    if (!asked || !PyCFunction_Check(asked)) return true;  // replaced already
    if (direct.names && direct.names != names) {
        PyErr_SetString(PyExc_ValueError, "the classes must share their `__call__`");
        return false;
    }
    if (!direct.names) {
        direct.call = type->tp_call;
        direct.names = Ref::borrow(names).release();
        direct.asked = Ref::borrow(asked).release();
        direct.name = found.release();
    }
    type->tp_call = call;
    PyType_Modified(type);
    return true;
}

// take_feed_calls(class, globals)
PyObject* take_feed_calls(PyObject*, PyObject* arguments) {
    PyObject *type, *names;
    if (!PyArg_ParseTuple(arguments, "O!O", &PyType_Type, &type, &names)) return nullptr;
    if (!take_calls(reinterpret_cast<PyTypeObject*>(type), names, "next_feed", direct_feed, call_feed)) return nullptr;
    Py_RETURN_NONE;
}

// take_neuron_calls(class, globals, name of the runtime in a module's attributes, its `previous` after such a step)
PyObject* take_neuron_calls(PyObject*, PyObject* arguments) {
    PyObject *type, *names, *name, *previous;
    if (!PyArg_ParseTuple(arguments, "O!OOO", &PyType_Type, &type, &names, &name, &previous)) return nullptr;
    Py_INCREF(name);
    Py_XSETREF(runtime_name, name);
    Py_INCREF(previous);
    Py_XSETREF(recorded, previous);
    if (!take_calls(reinterpret_cast<PyTypeObject*>(type), names, "next_step", direct_neuron, call_neuron))
        return nullptr;
    Py_RETURN_NONE;
}

// steps_in_a_row(tensors, index): see recording/native.py. A deferred tensor to which nothing has happened has its
// three attributes alone; one that is detached, a view or real has more.
PyObject* steps_in_a_row(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    const Py_ssize_t start = count == 2 ? PyLong_AsSsize_t(arguments[1]) : -1;
    if (start < 0) return PyErr_Format(PyExc_TypeError, "steps_in_a_row(tensors, index)");
    const Ref tensors(PySequence_Fast(arguments[0], "steps_in_a_row takes a sequence"));
    if (!tensors) return nullptr;
    PyObject *source = nullptr, *slot = nullptr;
    Py_ssize_t index = start, first = 0;
    for (; index < PySequence_Fast_GET_SIZE(tensors.get()); ++index) {
        PyObject* tensor = PySequence_Fast_GET_ITEM(tensors.get(), index);
        if (Py_TYPE(tensor) != reinterpret_cast<PyTypeObject*>(deferred.object)) break;
        const Ref attributes = attributes_of(tensor);
        if (!attributes || PyDict_GET_SIZE(attributes.get()) != fresh) break;
        PyObject* its_source = PyDict_GetItemWithError(attributes.get(), name_source);
        PyObject* its_slot = PyDict_GetItemWithError(attributes.get(), name_slot);
        PyObject* step = PyDict_GetItemWithError(attributes.get(), name_step);
        if (!its_source || !its_slot || !step) break;
        const Py_ssize_t number = PyLong_AsSsize_t(step);
        if (index == start) {
            source = its_source, slot = its_slot, first = number;
        } else if (its_source != source || its_slot != slot || number != first + (index - start)) {
            break;
        }
    }
    PyErr_Clear();
    return PyLong_FromSsize_t(index > start ? index - start : 1);
}

// connect(objects): a dict with everything in `known`, and the classes of all `slots`.
PyObject* connect(PyObject*, PyObject* objects) {
    for (Known* each : known) {
        PyObject* object = PyDict_GetItemString(objects, each->name);
        if (!object) return PyErr_Format(PyExc_KeyError, "%s", each->name);
        Py_INCREF(object);
        Py_XSETREF(each->object, object);
    }
    for (Slot* slot : slots) {
        PyObject* type = PyDict_GetItemString(objects, slot->type);
        const Ref member(type ? PyObject_GetAttrString(type, slot->name) : nullptr);
        if (!member || Py_TYPE(member.get()) != &PyMemberDescr_Type)
            return PyErr_Format(PyExc_TypeError, "%s.%s is not a slot", slot->type, slot->name);
        slot->offset = reinterpret_cast<PyMemberDescrObject*>(member.get())->d_member->offset;
    }
    Py_RETURN_NONE;
}

template <class Function>
PyCFunction method(Function* function) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"connect", connect, METH_O, "Take the recorder's classes and torch's functions, by name."},
    {"next_feed", method(next_feed), METH_FASTCALL | METH_KEYWORDS,
     "next_feed(module, input): see recording/native.py."},
    {"next_step", method(next_step), METH_FASTCALL, "next_step(module, input, state): see recording/native.py."},
    {"take_feed_calls", take_feed_calls, METH_VARARGS, "take_feed_calls(class, globals): see recording/native.py."},
    {"take_neuron_calls", take_neuron_calls, METH_VARARGS,
     "take_neuron_calls(class, globals, runtime, previous): see recording/native.py."},
    {"steps_in_a_row", method(steps_in_a_row), METH_FASTCALL,
     "steps_in_a_row(tensors, index): see recording/native.py."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_recording",
                          "The common call of a recorded loop.",
                          -1,
                          methods,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__recording() {
    const std::initializer_list<std::pair<PyObject**, const char*>> names = {{&name_source, "_source"},
                                                                             {&name_step, "_step"},
                                                                             {&name_slot, "_slot"},
                                                                             {&name_cut, "_cut"},
                                                                             {&name_segment, "segment"},
                                                                             {&name_call, "__call__"},
                                                                             {&name_base, "_base"},
                                                                             {&name_shape, "shape"},
                                                                             {&name_dtype, "dtype"},
                                                                             {&name_requires_grad, "requires_grad"},
                                                                             {&name_offset, "storage_offset"},
                                                                             {&name_stride, "stride"},
                                                                             {&name_init_hidden, "init_hidden"},
                                                                             {&name_output, "output"},
                                                                             {&name_buffers, "_buffers"},
                                                                             {&name_mem, "mem"},
                                                                             {&name_previous, "previous"},
                                                                             {&module_hooks[0], "_forward_hooks"},
                                                                             {&module_hooks[1], "_forward_pre_hooks"},
                                                                             {&module_hooks[2], "_backward_hooks"},
                                                                             {&module_hooks[3], "_backward_pre_hooks"}};
    for (const auto& [place, name] : names)
        if (!(*place = PyUnicode_InternFromString(name))) return nullptr;
    return PyModule_Create(&definition);
}
