"""The reference models that ship. Each file holds one network and its width spec."""
