"""The load generator: a process of its own that sends prepared requests, and remembers when which byte came back."""
