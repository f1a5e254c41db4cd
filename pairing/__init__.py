"""From a waveform to measurements, and from measurements to what is alike."""
