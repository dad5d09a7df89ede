"""What the tasks compute: code for workers, which loads numpy and matplotlib; recipes import the tasks alone."""
