"""Settings: schema, prompts, presets, YAML files, validation."""
