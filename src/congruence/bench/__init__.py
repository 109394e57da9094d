"""Floor 11: plans (methods × seeds), the runner of their cells, and the tables of results."""
