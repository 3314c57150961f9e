"""BiFormer where people look for models: ``import bilevel.timm`` registers them with timm, after
which ``timm.create_model("biformer_small", ...)`` and all that is built on it knows them.

>>> import timm
>>> import bilevel.timm
>>> timm.list_models("biformer_s*")
['biformer_small', 'biformer_stl', 'biformer_stl_nchw']
"""

from __future__ import annotations

from bilevel.errors import BackendUnavailable

try:
    from bilevel.timm import biformer as biformer  # registers the models
    from bilevel.timm.repository import About, push, save
except ModuleNotFoundError as error:
    raise BackendUnavailable(
        f'bilevel.timm needs {error.name}; install it with: python -m pip install "bilevel[train]"'
    ) from error

__all__ = ["About", "push", "save"]
