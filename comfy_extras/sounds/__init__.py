"""What the audio nodes compute and read; a sound is {"waveform", "sample_rate"}."""
