"""Conversion between rows and values, one file for each table: from a row to a value, and from a value to a new row.

A column is named in ``schema`` with its type, here, and in the statements that ask about it. A function that reads a
row says in its docstring which labels it expects beside the columns of its table. Nothing here runs a statement.
"""
