"""How a picture is asked for: one file a way of reading prompts."""
