"""What things are: values without behaviour beyond their own validity."""
