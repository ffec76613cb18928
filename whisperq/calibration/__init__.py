"""Range search by trials on a development list."""
