"""What ``phasefield compare`` measures, a file each: matched sizes, quality of text, speed and memory."""
