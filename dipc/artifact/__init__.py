"""Keep a compiled program on disk: written whole, read without running anything."""
