"""What each part of joint training is worth, measured on a part of a real collection."""
