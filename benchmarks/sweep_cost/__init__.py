"""What a sweep costs: one process a setting, one process for all, all settings in one step."""
