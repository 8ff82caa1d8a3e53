"""A run as one HTML file that needs nothing else: its data made here, its page in ``page/``.

``data`` turns a run's values into what the page shows, ``estimate`` says what one process per job
would have taken, ``page`` puts data, style and script into one file.
"""
