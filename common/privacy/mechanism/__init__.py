"""How a release is made private: clipped, summed, noised."""
