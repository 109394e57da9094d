"""A trained model in other formats: the graph that is exported, the files, the comparison, int8, and the card."""
