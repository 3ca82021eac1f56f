"""From settings to open handles, from handles to windows: what a role holds of the world, and how it waits."""
