"""What is left behind: files of a run, and what is kept between runs."""
