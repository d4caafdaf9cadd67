"""What JSON that is read back should look like: files may be damaged, or written by others.

A dataclass whose objects are kept as JSON declares the form of each value where its field is:
:func:`json_field`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields
from typing import Any

_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}

# Forms of single values.
TEXT = (str,)
WHOLE = (int,)
NUMBER = (int, float)
FLAG = (bool,)


def json_field(form: Any, default: Any = MISSING, *, make: Callable[[], Any] | None = None) -> Any:
    """Return a dataclass's field that JSON has too, in this form; `make` makes its default."""
    metadata = {"form": form}
    if make is not None:
        return field(default_factory=make, metadata=metadata)
    return field(default=default, metadata=metadata)


def form_of(kind: Any) -> dict[str, Any]:
    """Return the form of a dataclass's object in JSON: that of each :func:`json_field`, by name."""
    return {one.name: one.metadata["form"] for one in fields(kind) if "form" in one.metadata}


def parse(form: Any, value: Any) -> Any:
    """Return what a JSON value stands for: an object of the dataclass where the form names one.

    Args:
        form: as :func:`misfit` takes it, which has found the value to fit it.
        value: as JSON has it; names that the dataclass lacks are left out, and what an object
            lacks is as by default.
    """
    if isinstance(form, list):
        return [parse(form[0], one) for one in value]
    if not isinstance(form, type):
        return value
    known = {name: one for name, one in form_of(form).items() if name in value}
    return form(**{name: parse(one, value[name]) for name, one in known.items()})


def misfit(value: Any, form: Any, name: str, *, is_item: bool = False) -> str:
    """Return what of a JSON value is not as a form has it, or "".

    Args:
        value: to check.
        form: types; [form] for a list of such values; {...: form} for an object with such values;
            {name: form} or a dataclass for an object, which may have more names.
        name: what messages call the value.
        is_item: of a list: then an object needs all of the form's names.
    """
    form = form_of(form) if isinstance(form, type) else form
    if isinstance(form, tuple):
        fits = type(value) in form and (type(value) is not int or abs(value) < 2**63)
        expected = " or ".join(_KINDS[kind] for kind in form)
    else:
        fits, expected = isinstance(value, type(form)), _KINDS[type(form)]
    if not fits:
        return f"{name} is {short_json(value)}, expected {expected}"
    if isinstance(form, list):
        problems = [misfit(item, form[0], name, is_item=True) for item in value]
    elif isinstance(form, dict):
        forms = {key: form.get(key, form.get(...)) for key in value}
        problems = [misfit(value[key], one, key) for key, one in forms.items() if one]
        needed = [key for key in form if key is not ...] if is_item else []
        problems += [f"{name} lacks {key}" for key in needed if key not in value]
    else:
        return ""
    return next(filter(None, problems), "")


def short_json(value: Any) -> str:
    """Return a JSON value, or its beginning, as messages show it."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs between two JSON objects: name -> its two values, or None."""
    return {
        name: (before.get(name), now.get(name))
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    }
