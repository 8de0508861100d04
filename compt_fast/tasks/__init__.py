"""Tasks: what they are, where their rows are, what the trunk reads and writes for them, which rows
a run sees, and how its predictions are scored."""
