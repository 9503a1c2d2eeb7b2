"""How much each layer and channel contributes to the error of a quantized network."""
