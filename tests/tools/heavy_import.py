"""Imports pandas where it should not, and uses syntax that Python 3.9 lacks."""

import pandas

from tests.tools.faulty import Right


class Heavy(Right):
    def one(self, item):
        match item:
            case _:
                return float(pandas.Series([len(item)]).sum())
