"""Git Re-Basin (arXiv:2209.04836v6), claim by claim, on data that can be had: `make paper`.

`lab.py` trains and runs the product's own commands, `networks.py` and `datasets.py` are what it trains, `claims/` has
a file for each claim, and `report.py` writes the table. What was trained or measured is kept and found again by its
recipe.

Rows of transformers read a text: PAPER_TEXT names its file (else shakespeare.txt here). MNIST-1D is made by its package
(pip install mnist1d). `defaults.py` compares methods and starts over the same networks.
"""
