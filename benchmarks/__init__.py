"""Timings that anyone can repeat: each module runs both ways in one process, interleaved, and prints ratios."""
