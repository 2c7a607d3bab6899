"""Reading rows and images, splits by identity, drawn samples. Nothing here knows a model."""
