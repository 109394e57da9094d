"""Models of timm, transformers and sentence-transformers: loaded by name, what they take, and saved as theirs again.

They stay the libraries' own modules: what is known of them is read from them, and from the files beside their weights.
"""

from congruence.models.adapters.native import input_of, kind_of, save_native
from congruence.models.adapters.switched_off import without_adapters

__all__ = ["input_of", "kind_of", "save_native", "without_adapters"]
