"""What a compiled program is handed to: `eager` runs it, `cost` prices it. See README.md."""
