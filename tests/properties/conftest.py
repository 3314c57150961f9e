"""How Hypothesis draws: the same examples each time in CI, new ones on a developer's machine.

``BILEVEL_EXAMPLES=1000`` searches longer.
"""

import os

from hypothesis import settings

settings.register_profile(
    "bilevel",
    deadline=None,  # a busy machine is no bug
    derandomize="CI" in os.environ,
    max_examples=int(os.environ.get("BILEVEL_EXAMPLES", "30")),
    print_blob=True,
)
settings.load_profile("bilevel")
