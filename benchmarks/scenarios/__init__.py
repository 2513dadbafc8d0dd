"""What is measured: each module here has `TITLE` and `run(systems, rounds, quick)`; its name is the scenario's."""
