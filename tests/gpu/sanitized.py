"""One small call of each kernel, for `compute-sanitizer python tests/gpu/sanitized.py`."""

from __future__ import annotations

from itertools import product
from math import prod

import torch

import bilevel

CASES = [((20, 12), (3, 2), 2), ((9, 11), (4, 5), 6), ((108,), (12,), 1)]
"""Ragged regions, groups of them, and regions that all may choose."""

for backend, (spatial, regions, topk) in product(("triton", "cupy"), CASES):
    for dtype in (torch.float32, torch.bfloat16):
        shape = (2, *spatial, 2, 20)
        q, k, v = (torch.randn(shape, device="cuda", dtype=dtype).requires_grad_() for _ in "qkv")
        for hub in (False, True):
            routes = torch.ones(2, prod(regions), 1, dtype=torch.int64, device="cuda")
            chosen = routes if hub else None
            out = bilevel.bra(q, k, v, regions=regions, topk=topk, routes=chosen, backend=backend)
            torch.autograd.grad(out.square().sum(), (q, k, v))
torch.cuda.synchronize()
print("done")
