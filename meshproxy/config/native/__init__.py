"""The short YAML for people. `rows` and `kinds` are the machinery; the other files are the settings, one resource kind each."""
