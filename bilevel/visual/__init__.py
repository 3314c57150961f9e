"""What a model routes to and what it attends to: as arrays, as figures, as a page.

Arrays take NumPy alone. Matplotlib, for figures, and Pillow, for pages, are imported where one is
made.
"""

from bilevel.visual.figures import draw
from bilevel.visual.maps import AttentionMap, BlockRoutes, attention_map, routes
from bilevel.visual.pages import page

__all__ = ["AttentionMap", "BlockRoutes", "attention_map", "draw", "page", "routes"]
