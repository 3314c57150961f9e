"""Other attentions in one layout, to compare Bi-Level Routing Attention with: each a short module.

A model of any of them: :func:`build`. Their names: ``MIXERS``; whole models of the papers:
``WHOLE``. All are written from the papers' descriptions, and held to numbers that the official code
of each computed.
"""

from bilevel.compare.layout import MICRO, SWIN_T, build
from bilevel.compare.mixers import MIXERS
from bilevel.compare.models import WHOLE

__all__ = ["MICRO", "MIXERS", "SWIN_T", "WHOLE", "build"]
