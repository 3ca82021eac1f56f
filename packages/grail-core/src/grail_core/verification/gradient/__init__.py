"""The checks of gradient work, cheapest first: seal, file, layout, feedback, chunks, proof, replay, similar; and the score."""
