"""Models of timm, transformers and sentence-transformers: loading by name, their inputs, and saving in their format.

They stay the libraries' modules: facts about them are read from them and from the files next to their weights.
"""

from congruence.models.adapters.native import input_of, kind_of, load_native, save_native
from congruence.models.adapters.switched_off import without_adapters
from congruence.models.adapters.text_encoders import learn_tokenizer

__all__ = ["input_of", "kind_of", "learn_tokenizer", "load_native", "save_native", "without_adapters"]
