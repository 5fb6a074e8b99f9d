#include "recorder.hpp"

#include <structmember.h>

#include <initializer_list>

#include "modes.hpp"

namespace recording {
namespace {

Slot* const slots[] = {&stream_segment,   &stream_blanks,   &stream_children,   &stream_count,         &stream_wrappers,
                       &stream_source,    &stream_watch,    &stream_whole,      &stream_requires_grad, &segment_closed,
                       &segment_grad,     &segment_entries, &segment_inference, &segment_limit,        &segment_thread,
                       &wrappers_older,   &wrappers_newer,  &wrappers_blank,    &wrappers_escaped,     &wrappers_slot,
                       &watch_attributes, &watch_tensors,   &inputs_base,       &inputs_alias,         &inputs_place,
                       &inputs_runs,      &inputs_shape,    &inputs_dtype,      &inputs_requires_grad, &run_alias,
                       &run_count,        &run_start,       &run_spacing,       &run_strides,          &run_first};

Known* const known[] = {&deferred, &feed_stream, &neuron_stream, &inputs_type,  &plain_tensor, &absent,        &thread,
                        &wrap,     &link,        &hooks,         &module_class, &module_call,  &module_getattr};

Question* const questions[] = {&place_of,  &base_of,    &requires_grad_of, &dtype_of,     &shape_of,
                               &offset_of, &strides_of, &is_neg_of,        &grad_enabled, &inference_enabled};

PyObject* given(PyObject* objects, const char* name) {
    PyObject* object = PyDict_GetItemString(objects, name);
    if (!object) PyErr_Format(PyExc_KeyError, "%s", name);
    return object;
}

bool find(Slot& slot, PyObject* objects) {
    PyObject* type = given(objects, slot.type);
    const Ref member(type ? PyObject_GetAttrString(type, slot.name) : nullptr);
    if (!member || Py_TYPE(member.get()) != &PyMemberDescr_Type) {
        PyErr_Format(PyExc_TypeError, "%s.%s is not a slot", slot.type, slot.name);
        return false;
    }
    slot.offset = reinterpret_cast<PyMemberDescrObject*>(member.get())->d_member->offset;
    return true;
}

}  // namespace

PyObject* Name::search(PyObject* attributes) {
    constexpr int most_moves = 64;  // in a network of many classes it would go to and fro
    if (moves < most_moves) {
        ++moves;
        PyObject *key, *value;
        Py_ssize_t next = 0;
        for (Py_ssize_t here = 0; PyDict_Next(attributes, &next, &key, &value); here = next)
            if (key == object) return position = here, value;
    }
    return PyDict_GetItemWithError(attributes, object);
}

bool intern_names() {
    for (Name* name :
         {&name_source, &name_step, &name_slot, &name_cut, &name_segment, &name_call, &name_init_hidden, &name_output,
          &name_buffers, &name_parameters, &name_modules, &name_getattr, &name_getattribute, &name_mem, &name_previous,
          &module_hooks[0], &module_hooks[1], &module_hooks[2], &module_hooks[3]})
        if (!(name->object = PyUnicode_InternFromString(name->text))) return false;
    return true;
}

PyObject* connect(PyObject*, PyObject* objects) {
    for (Known* each : known) {
        PyObject* object = given(objects, each->name);
        if (!object) return nullptr;
        Py_INCREF(object);
        Py_XSETREF(each->object, object);
    }
    for (Question* question : questions) {
        PyObject* function = given(objects, question->name);
        if (!function) return nullptr;
        question->ask_of(function);
    }
    PyObject *modes = given(objects, "modes"), *tells = given(objects, "a_look_tells");
    if (!modes || !tells || !take_modes(modes, tells)) return nullptr;
    for (Slot* slot : slots)
        if (!find(*slot, objects)) return nullptr;
    Py_RETURN_NONE;
}

}  // namespace recording
