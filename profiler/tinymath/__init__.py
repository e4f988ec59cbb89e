"""The built-in labelled task: multi-step integer arithmetic, and how its models were trained. See README.md."""
