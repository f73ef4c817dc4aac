"""Put many programs side by side: comparisons, studies on devices, contests of speed."""
