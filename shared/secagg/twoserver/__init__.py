"""Engine `twoserver`: each update is split between two servers that check a proof of its norm and open only the sum."""
