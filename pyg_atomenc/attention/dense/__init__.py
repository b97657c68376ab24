"""The dense backend: batched matrix products over tokens of equal size."""
