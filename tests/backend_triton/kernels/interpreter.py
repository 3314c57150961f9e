"""Triton's interpreter, mended: it runs kernels on the CPU where ``TRITON_INTERPRET=1``.

Import this before a kernel is launched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle

from bilevel.protocol import Backend, Problem
from bilevel_triton.backend import BACKEND


def _float32(x: TensorHandle) -> TensorHandle:
    """The numbers whose bits a handle of bfloat16 holds, as integers; others as they are."""
    if x.dtype.scalar != tl.bfloat16:
        return x
    return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


_create_dot = InterpreterBuilder.create_dot


def _dot(self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *others: Any) -> TensorHandle:
    """Products of numbers: of bfloat16 the interpreter multiplies the bits."""
    return _create_dot(self, _float32(a), _float32(b), *others)


_call_prepared = InterpretedFunction.__call__
_prepared: set[str] = set()


def _call(self: InterpretedFunction, *arguments: Any, **options: Any) -> Any:
    """Call a function from a kernel. The interpreter would prepare triton.language anew for each
    call, which takes half of all time; once for each module that has functions is enough."""
    module = self.fn.__module__
    if module.startswith("bilevel_triton") or module in _prepared:
        return self.rewrite()(*arguments, **options)
    _prepared.add(module)
    return _call_prepared(self, *arguments, **options)


InterpreterBuilder.create_dot = _dot
InterpretedFunction.__call__ = _call


def takes(problem: Problem) -> str | None:
    """What the backend takes, but on the CPU."""
    if problem.device != "cpu":
        return "arrays on a CPU, where kernels are interpreted"
    return BACKEND.refuses(problem._replace(device="cuda"))


INTERPRETED: Backend = replace(BACKEND, refuses=takes)
"""The backend, for tensors on the CPU."""
