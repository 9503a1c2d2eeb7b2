"""From Relay to layers: the patterns and their extraction."""
